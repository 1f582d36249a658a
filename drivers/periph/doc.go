// Package periph is the driver of real hardware: periph.io, and beside it the
// kernel's GPIO character device through go-gpiocdev. No type of either leaves
// it.
//
//	lines    found by the names that the kernel and periph know; served by the
//	         character device wherever there is one, for periph passes no
//	         debounce, no time stamps and no sequence numbers on
//	pins     what only periph serves: their edges are blind
//	sensors  periph's device drivers on the kernel's I2C and SPI buses; DS18B20
//	         through the kernel's w1_therm, or through a DS2482 on an I2C bus
//
// Steps around what the parts do:
//
//   - periph's list of pins is made once, and costs time and memory: it is made
//     when the first line is asked for, never for a node without lines. What has
//     come since, such as a chip on USB, is found by asking the kernel.
//   - periph renames a line of the kernel's that has the name of a pin of its
//     own; so a pin is brought back to the kernel's line by name and by chip.
//   - periph's WaitForEdge takes a negative time-out for none and 0 for ever, and
//     returns at once, for good, when the chip is gone: it is given finite ones,
//     and many instant returns end the watch.
//   - go-gpiocdev's Line drops the size of the event buffer on its way to the
//     kernel, so 16 edges fit, and spins when the chip is removed. Lines are
//     requested through its uapi package, and read here.
//   - The kernel reads the level when it gets to an edge, not when it happened, and
//     makes one edge of several that it gets to at once; it numbers that one only.
//   - bmxx80 waits for the end of a conversion for ever, and a bus whose lines
//     hang reads as ones, which looks like a conversion: transfers are counted.
//   - ads1x15 reads the result after the nominal time, but the chip's clock may
//     be a tenth slower, and then the result is the channel's before: the end of the
//     conversion is waited for underneath it.
//   - ds18b20 looks for the 85 degrees of a chip that has not converted, but takes
//     them for kelvins and never finds them: they are looked for here.
package periph
