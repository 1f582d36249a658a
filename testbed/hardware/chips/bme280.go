package chips

import (
	"encoding/binary"
	"fmt"
	"sort"
	"sync"
)

// Registers of the BME280, data sheet BST-BME280-DS002, section 5.3.
const (
	regCalibration1 = 0x88 // T1..T3, P1..P9, and H1 at 0xa1
	regH1           = 0xa1
	regID           = 0xd0
	regReset        = 0xe0
	regCalibration2 = 0xe1 // H2..H6
	regCtrlHum      = 0xf2
	regCtrlMeas     = 0xf4
	regConfig       = 0xf5
	regData         = 0xf7 // pressure, temperature, humidity, 8 bytes
	idBME280        = 0x60
	resetWord       = 0xb6
)

// What a quantity reads before it is measured, or when its oversampling says
// to skip it, section 5.4.7 and 5.4.9.
const (
	skipped20 = 0x80000
	skipped16 = 0x8000
)

// The sensor's trimming: temperature and pressure are the worked example of
// the BMP280's data sheet, BST-BMP280-DS001, section 3.12; humidity is that of
// a sensor at hand.
var (
	trimT = [3]float64{27504, 26435, -1000}
	trimP = [9]float64{36477, -10685, 3024, 2855, 140, -7, 15500, -14600, 6000}
	trimH = [6]float64{75, 362, 0, 313, 50, 30}
)

// BME280 is Bosch's sensor of temperature, humidity and pressure. Its
// registers hold the raw values that a driver has to compensate.
type BME280 struct {
	registers [256]byte
	pointer   byte

	mu       sync.Mutex // of what is there to be measured
	celsius  float64
	humidity float64 // %rH
	pascal   float64
}

// NewBME280 returns a sensor in a room of 21 °C, 45 %rH and 1013.25 hPa.
func NewBME280() *BME280 { return &BME280{celsius: 21, humidity: 45, pascal: 101325} }

// Set changes what there is to measure: temperature in °C, humidity in %rH or
// pressure in Pa. The next measurement finds it.
func (s *BME280) Set(quantity string, value float64) error {
	limits := map[string][2]float64{"temperature": {-40, 85}, "humidity": {0, 100}, "pressure": {30000, 110000}}
	l, ok := limits[quantity]
	if !ok {
		return fmt.Errorf("a BME280 measures temperature, humidity and pressure, not %q", quantity)
	}
	if value < l[0] || value > l[1] {
		return fmt.Errorf("a BME280 measures a %s from %g to %g, not %g", quantity, l[0], l[1], value)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch quantity {
	case "temperature":
		s.celsius = value
	case "humidity":
		s.humidity = value
	case "pressure":
		s.pascal = value
	}
	return nil
}

// Reset implements Device.
func (s *BME280) Reset() {
	s.registers, s.pointer = [256]byte{}, 0
	r := s.registers[:]
	r[regID] = idBME280
	for i, v := range append(trimT[:], trimP[:]...) {
		binary.LittleEndian.PutUint16(r[regCalibration1+2*i:], uint16(int32(v)))
	}
	r[regH1] = byte(trimH[0])
	h := r[regCalibration2:]
	h4, h5 := int(trimH[3]), int(trimH[4])
	binary.LittleEndian.PutUint16(h, uint16(trimH[1]))
	h[2] = byte(trimH[2])
	h[3], h[4], h[5] = byte(h4>>4), byte(h4&0xf|h5<<4), byte(h5>>4) // two of 12 bits share a byte
	h[6] = byte(trimH[5])
	s.put(skipped20, skipped20, skipped16)
}

// Write implements Device: a register's address, or pairs of a register and
// its new value (section 6.2.1).
func (s *BME280) Write(p []byte) bool {
	if len(p) == 0 {
		return true
	}
	s.pointer = p[0]
	for ; len(p) >= 2; p = p[2:] {
		switch register, value := p[0], p[1]; register {
		case regReset:
			if value == resetWord {
				s.Reset()
			}
		case regCtrlHum, regConfig:
			s.registers[register] = value
		case regCtrlMeas:
			s.registers[register] = value
			if value&3 != 0 {
				s.measure()
			}
			if value&3 != 3 { // forced mode ends in sleep mode
				s.registers[register] &^= 3
			}
		}
	}
	return true
}

// Read implements Device.
func (s *BME280) Read(p []byte) bool {
	if s.registers[regCtrlMeas]&3 == 3 { // normal mode measures all the time
		s.measure()
	}
	for i := range p {
		p[i] = s.registers[s.pointer]
		s.pointer++
	}
	return true
}

// measure puts into the data registers what is there, as far as the
// oversampling settings ask for it.
func (s *BME280) measure() {
	s.mu.Lock()
	celsius, humidity, pascal := s.celsius, s.humidity, s.pascal
	s.mu.Unlock()
	// The least raw value that compensates to what is there: temperature and
	// humidity rise with theirs, pressure falls.
	t := sort.Search(1<<20, func(raw int) bool { return fineTemperature(raw)/5120 >= celsius })
	fine := fineTemperature(t)
	p := sort.Search(1<<20, func(raw int) bool { return pressure(raw, fine) <= pascal })
	h := sort.Search(1<<16, func(raw int) bool { return relativeHumidity(raw, fine) >= humidity })
	meas := s.registers[regCtrlMeas]
	if meas>>5 == 0 {
		t = skipped20
	}
	if meas>>2&7 == 0 {
		p = skipped20
	}
	if s.registers[regCtrlHum]&7 == 0 {
		h = skipped16
	}
	s.put(p, t, h)
}

func (s *BME280) put(p, t, h int) {
	d := s.registers[regData:]
	d[0], d[1], d[2] = byte(p>>12), byte(p>>4), byte(p<<4)
	d[3], d[4], d[5] = byte(t>>12), byte(t>>4), byte(t<<4)
	d[6], d[7] = byte(h>>8), byte(h)
}

// The compensation in double precision, data sheet section 8.1.
// fineTemperature is 5120 times the temperature in °C.

func fineTemperature(raw int) float64 {
	a := (float64(raw)/16384 - trimT[0]/1024) * trimT[1]
	b := float64(raw)/131072 - trimT[0]/8192
	return a + b*b*trimT[2]
}

func pressure(raw int, fine float64) float64 {
	a := fine/2 - 64000
	b := a * a * trimP[5] / 32768
	b += a * trimP[4] * 2
	b = b/4 + trimP[3]*65536
	a = (trimP[2]*a*a/524288 + trimP[1]*a) / 524288
	a = (1 + a/32768) * trimP[0]
	p := (1048576 - float64(raw) - b/4096) * 6250 / a
	return p + (trimP[8]*p*p/2147483648+p*trimP[7]/32768+trimP[6])/16
}

func relativeHumidity(raw int, fine float64) float64 {
	h := fine - 76800
	h = (float64(raw) - (trimH[3]*64 + trimH[4]/16384*h)) *
		(trimH[1] / 65536 * (1 + trimH[5]/67108864*h*(1+trimH[2]/67108864*h)))
	return h * (1 - trimH[0]*h/524288)
}
