// Package chips emulates the sensors of the testbed's gateway, register by
// register and as their data sheets have them: a BME280 on I2C, and DS18B20
// thermometers on 1-wire behind a DS2482-100 bridge. They can be unplugged,
// plugged in again, which resets them as a real power cycle does, and made to
// answer nonsense.
//
// Nothing here touches a kernel: what carries the messages is package usbip in
// the gateway, and periph's own drivers in the tests.
package chips
