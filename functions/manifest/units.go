package manifest

import (
	"errors"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

var (
	errDuration = errors.New("is no duration")
	errSize     = errors.New("is no size")
)

var (
	days     = regexp.MustCompile(`^(\d{1,5})d(.*)$`)
	sizeForm = regexp.MustCompile(`^(\d{1,19})(Ki|Mi|Gi)?$`)
)

// parseDuration reads 500ms, 5s, 1h30m, 30d or 1d12h. A number alone is no
// duration, except 0.
func parseDuration(s string) (time.Duration, error) {
	var sum time.Duration
	rest := s
	if m := days.FindStringSubmatch(s); m != nil {
		n, err := strconv.Atoi(m[1])
		if err != nil {
			return 0, errDuration
		}
		sum, rest = time.Duration(n)*24*time.Hour, m[2] // 99999 days fit
	}
	if rest != "" || s == "" {
		if strings.HasPrefix(rest, "-") || strings.HasPrefix(rest, "+") {
			return 0, errDuration
		}
		d, err := time.ParseDuration(rest)
		if err != nil || d > math.MaxInt64-sum {
			return 0, errDuration
		}
		sum += d
	}
	return sum, nil
}

// parseSize reads 65536, 512Ki, 64Mi or 1Gi.
func parseSize(s string) (int64, error) {
	m := sizeForm.FindStringSubmatch(s)
	if m == nil {
		return 0, errSize
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil {
		return 0, errSize
	}
	shift := map[string]uint{"": 0, "Ki": 10, "Mi": 20, "Gi": 30}[m[2]]
	if n > math.MaxInt64>>shift {
		return 0, errSize
	}
	return n << shift, nil
}

func (d *decoder) duration(p *time.Duration) func(*yaml.Node, string) {
	return func(n *yaml.Node, field string) {
		s, ok := d.text(n, field)
		if !ok {
			return
		}
		v, err := parseDuration(s)
		if err != nil {
			d.at(n, field, "write a number with a unit: 500ms, 5s, 1m, 2h or 30d", "%q %v", s, err)
			return
		}
		*p = v
	}
}

func (d *decoder) size(p *int64) func(*yaml.Node, string) {
	return func(n *yaml.Node, field string) {
		s, ok := d.text(n, field)
		if !ok {
			return
		}
		v, err := parseSize(s)
		if err != nil {
			d.at(n, field, "write a number of bytes, or one with Ki, Mi or Gi: 64Mi", "%q %v", s, err)
			return
		}
		*p = v
	}
}
