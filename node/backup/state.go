package backup

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/node/api"
)

// ReadState calls f with each line of a function's state in JSON Lines, as
// api.StateEntry writes them, and its number from 1. Empty lines are passed
// over. What is wrong with a line is said with its number and is
// api.ErrInvalid; the errors of r are handed on. The value is f's to keep.
func ReadState(r io.Reader, f func(line int, e api.StateEntry) error) error {
	in := bufio.NewReaderSize(r, 64<<10)
	for n := 1; ; n++ {
		text, err := readLine(in)
		if errors.Is(err, errLong) {
			return fmt.Errorf("line %d: it is over %d bytes, which no key and value can be: %w", n, api.MaxStateLine, api.ErrInvalid)
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("line %d: %w", n, err)
		}
		if len(bytes.TrimSpace(text)) > 0 {
			e, perr := parseEntry(text)
			if perr != nil {
				return fmt.Errorf("line %d: %w: %w", n, perr, api.ErrInvalid)
			}
			if err := f(n, e); err != nil {
				return err
			}
		}
		if err != nil {
			return nil //nolint:nilerr // the end
		}
	}
}

var errLong = errors.New("line is too long")

// readLine reads a line of at most api.MaxStateLine bytes, without its end.
func readLine(in *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := in.ReadSlice('\n')
		if len(line)+len(part) > api.MaxStateLine+1 {
			return nil, errLong
		}
		line = append(line, part...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return bytes.TrimSuffix(line, []byte("\n")), err //nolint:wrapcheck // it is said where
		}
	}
}

// parseEntry reads one line.
func parseEntry(text []byte) (api.StateEntry, error) {
	var none api.StateEntry
	if !utf8.Valid(text) { // the decoder would put something else in its place
		return none, errors.New("it is not UTF-8")
	}
	var line struct {
		Key   *string `json:"key"`
		Value *[]byte `json:"value"`
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&line); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = errors.New("its JSON object has no end")
		}
		return none, fmt.Errorf(`{"key": TEXT, "value": BASE64} is expected: %w`, err)
	}
	switch _, err := dec.Token(); {
	case !errors.Is(err, io.EOF):
		return none, errors.New("there is something behind its JSON object")
	case line.Key == nil || line.Value == nil:
		return none, errors.New(`{"key": TEXT, "value": BASE64} is expected: one of the two is missing`)
	case *line.Key == "":
		return none, errors.New("its key is empty")
	case len(*line.Key) > functions.MaxKey:
		return none, fmt.Errorf("its key has %d bytes, at most %d are possible", len(*line.Key), functions.MaxKey)
	case len(*line.Value) > functions.MaxValue:
		return none, fmt.Errorf("its value has %d bytes, at most %d are possible", len(*line.Value), functions.MaxValue)
	}
	return api.StateEntry{Key: *line.Key, Value: *line.Value}, nil
}
