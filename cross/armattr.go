package cross

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"io"
)

// Build attributes of 32-bit arm, in the section .ARM.attributes. See "Addenda
// to, and Errata in, the ABI for the Arm Architecture", sections 3.2 and 3.3.
const (
	attrFormat   = 'A'
	attrVendor   = "aeabi"
	attrFile     = 1 // tag of what holds for the whole file
	attrRawName  = 4
	attrName     = 5
	attrCPUArch  = 6
	attrCompat   = 32 // a number and a text
	attrOddTexts = 32 // above it, odd tags have texts and even ones numbers
)

// Values of attrCPUArch.
const (
	cpuV6T2 = 8
	cpuV7   = 10
	cpuV6M  = 11
	cpuV6SM = 12
)

// needsARMv7 reports whether a 32-bit arm program says that it was built for
// ARMv7 or newer, as Debian's armhf is, so that it does not run on a Raspberry
// Pi of the first kind. A program that says nothing is taken for one that does.
func needsARMv7(r io.ReaderAt) bool {
	f, err := elf.NewFile(r)
	if err != nil {
		return false
	}
	s := f.SectionByType(elf.SectionType(0x70000003)) // SHT_ARM_ATTRIBUTES
	if s == nil {
		return false
	}
	b, err := s.Data()
	if err != nil {
		return false
	}
	arch, ok := cpuArch(b)
	return ok && (arch == cpuV6T2 || arch >= cpuV7 && arch != cpuV6M && arch != cpuV6SM)
}

// cpuArch reads the architecture out of build attributes; false: they do not
// say, or are damaged.
func cpuArch(b []byte) (arch uint64, ok bool) {
	if len(b) == 0 || b[0] != attrFormat {
		return 0, false
	}
	for b = b[1:]; len(b) >= 4; {
		size := binary.LittleEndian.Uint32(b)
		if size < 4 || uint64(size) > uint64(len(b)) {
			return 0, false
		}
		vendor, attrs, found := bytes.Cut(b[4:size], []byte{0})
		b = b[size:]
		if !found || string(vendor) != attrVendor {
			continue
		}
		for len(attrs) >= 5 {
			tag, size := attrs[0], binary.LittleEndian.Uint32(attrs[1:])
			if size < 5 || uint64(size) > uint64(len(attrs)) {
				return 0, false
			}
			if tag == attrFile {
				return fileArch(attrs[5:size])
			}
			attrs = attrs[size:]
		}
	}
	return 0, false
}

// fileArch looks for the architecture in the attributes of the whole file.
func fileArch(b []byte) (arch uint64, ok bool) {
	for len(b) > 0 {
		tag, n := binary.Uvarint(b) // ULEB128 is what Uvarint reads
		if n <= 0 {
			return 0, false
		}
		b = b[n:]
		number, text := true, false
		switch {
		case tag == attrRawName || tag == attrName || tag > attrOddTexts && tag%2 == 1:
			number, text = false, true
		case tag == attrCompat:
			text = true
		}
		if number {
			v, n := binary.Uvarint(b)
			if n <= 0 {
				return 0, false
			}
			if tag == attrCPUArch {
				return v, true
			}
			b = b[n:]
		}
		if text {
			_, rest, found := bytes.Cut(b, []byte{0})
			if !found {
				return 0, false
			}
			b = rest
		}
	}
	return 0, false
}
