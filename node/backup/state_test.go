package backup_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/node/api"
	"github.com/edgefn/edgefn/node/backup"
)

func readState(r io.Reader) (out []api.StateEntry, err error) {
	err = backup.ReadState(r, func(_ int, e api.StateEntry) error {
		out = append(out, e)
		return nil
	})
	return out, err
}

func TestReadState(t *testing.T) {
	long := strings.Repeat("\x01", functions.MaxKey) // every byte of it is escaped
	want := []api.StateEntry{
		{Key: "a", Value: []byte("1")},
		{Key: "ä/\n", Value: []byte{}},
		{Key: long, Value: bytes.Repeat([]byte{255}, functions.MaxValue)},
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	for _, e := range want {
		if err := enc.Encode(e); err != nil {
			t.Fatal(err)
		}
		b.WriteString("\n")
	}
	text := b.String()
	for name, r := range map[string]io.Reader{
		"as written":             strings.NewReader(text),
		"byte by byte":           iotest.OneByteReader(strings.NewReader(text)),
		"with no end of line":    strings.NewReader(strings.TrimRight(text, "\n")),
		"with the ends of other": strings.NewReader(strings.ReplaceAll(text, "\n", "\r\n")),
	} {
		got, err := readState(r)
		if err != nil || !reflect.DeepEqual(want, got) { // a diff of the largest value takes seconds
			t.Errorf("%s: %d read: %v", name, len(got), err)
		}
	}
	own := errors.New("enough")
	lines := 0
	err := backup.ReadState(strings.NewReader(text), func(line int, _ api.StateEntry) error {
		lines = line
		if line == 3 {
			return own
		}
		return nil
	})
	if !errors.Is(err, own) || lines != 3 {
		t.Errorf("f failed at line %d: %v", lines, err)
	}
}

func TestReadStateRefuses(t *testing.T) {
	value := func(n int) string { return base64.StdEncoding.EncodeToString(make([]byte, n)) }
	for _, c := range []struct{ line, want string }{
		{`{"key":"a","value":"MQ=="`, "no end"},
		{`{"key":"a","value":"MQ=="}{}`, "behind its JSON object"},
		{`{"key":"a","value":"MQ==","time":1}`, "time"},
		{`{"key":"a"}`, "missing"},
		{`{"value":"MQ=="}`, "missing"},
		{`{"key":"a","value":null}`, "missing"},
		{`{"key":"","value":"MQ=="}`, "empty"},
		{`{"key":"a","value":"M"}`, "base64"},
		{`{"key":"a","value":"1 2"}`, "base64"},
		{`{"key":1,"value":"MQ=="}`, "key"},
		{`["a","MQ=="]`, "expected"},
		{`a=1`, "expected"},
		{"{\"key\":\"\xff\",\"value\":\"MQ==\"}", "UTF-8"},
		{fmt.Sprintf(`{"key":%q,"value":"MQ=="}`, strings.Repeat("k", functions.MaxKey+1)), "513 bytes"},
		{fmt.Sprintf(`{"key":"a","value":%q}`, value(functions.MaxValue+1)), "at most"},
		{fmt.Sprintf(`{"key":"a","value":%q}`, value(functions.MaxValue+5000)), "line 3: it is over"},
	} {
		got, err := readState(strings.NewReader("{\"key\":\"first\",\"value\":\"\"}\n\n" + c.line + "\n"))
		if !errors.Is(err, api.ErrInvalid) || !strings.Contains(err.Error(), "line 3: ") || !strings.Contains(err.Error(), c.want) || len(got) != 1 {
			t.Errorf("%.60s: %d read, %v, want %q", c.line, len(got), err, c.want)
		}
	}
	own := errors.New("no disk")
	if _, err := readState(io.MultiReader(strings.NewReader("\n{\"key\""), iotest.ErrReader(own))); !errors.Is(err, own) || errors.Is(err, api.ErrInvalid) {
		t.Errorf("a reader that fails: %v", err)
	}
	// A line without an end takes no memory.
	if _, err := readState(io.LimitReader(endless{}, 1<<40)); !errors.Is(err, api.ErrInvalid) {
		t.Errorf("a line without an end: %v", err)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = '{'
	}
	return len(p), nil
}

func FuzzReadState(f *testing.F) {
	f.Add([]byte("{\"key\":\"a\",\"value\":\"MQ==\"}\n\n{\"key\":\"b\\n\",\"value\":\"\"}"))
	f.Add([]byte("{\"Key\":\"\\ud800\",\"value\":\"\"}"))
	f.Add([]byte("\xff\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := readState(bytes.NewReader(b))
		if err != nil && !errors.Is(err, api.ErrInvalid) {
			t.Fatalf("an error of another kind: %v", err)
		}
		// What is taken is written and read as the same.
		var text bytes.Buffer
		enc := json.NewEncoder(&text)
		for _, e := range got {
			if e.Key == "" || len(e.Key) > functions.MaxKey || len(e.Value) > functions.MaxValue || e.Value == nil {
				t.Fatalf("taken: %+v", e)
			}
			if err := enc.Encode(e); err != nil {
				t.Fatal(err)
			}
		}
		again, err := readState(&text)
		if d := cmp.Diff(got, again); err != nil || d != "" {
			t.Errorf("%v\n%s", err, d)
		}
	})
}
