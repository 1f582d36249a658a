// Command suite does what the type of its event asks for.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"time"

	edgefn "github.com/edgefn/edgefn-go"
)

var seen int

func main() { edgefn.Run(handle) }

func brokenPart() {
	panic(errors.New("it broke"))
}

func handle(ctx context.Context, e edgefn.Event) (any, error) {
	seen++
	switch e.Type {
	case "echo":
		return e.Data, nil
	case "json":
		var v struct{ A, B int }
		if err := e.JSON(&v); err != nil {
			return nil, err
		}
		return map[string]any{"sum": v.A + v.B, "text": "grüße"}, nil
	case "text":
		return "28.5 °C", nil
	case "nothing":
		return nil, nil
	case "attributes":
		got := map[string]string{
			"id": e.ID, "type": e.Type, "source": e.Source, "subject": e.Subject, "datacontenttype": e.DataContentType,
			"length": strconv.Itoa(len(e.Data)), "seconds": strconv.FormatInt(e.Time.Unix(), 10),
		}
		for k, v := range e.Extensions {
			got[k] = v
		}
		return got, nil
	case "context":
		i := edgefn.Info(ctx)
		return map[string]any{"invocation": i.ID, "function": i.Function, "version": i.Version, "attempt": i.Attempt}, nil
	case "deadline":
		d, ok := ctx.Deadline()
		if !ok {
			return nil, errors.New("no deadline")
		}
		return strconv.FormatInt(time.Until(d).Milliseconds(), 10), nil
	case "state":
		return state(ctx, e)
	case "state-and-raise":
		if err := errors.Join(edgefn.State(ctx).Put("half", []byte("done")), edgefn.Publish(ctx, "test/half", "done")); err != nil {
			return nil, nil // which the test sees as a success
		}
		return nil, errors.New("no further")
	case "other-state":
		other := edgefn.State(ctx).Of("other")
		b, err := other.Get("shared/in")
		if err != nil {
			return nil, err
		}
		n, err := strconv.Atoi(string(b))
		if err != nil {
			return nil, err
		}
		return b, other.Put("shared/out", []byte(strconv.Itoa(n+1)))
	case "publish":
		return nil, errors.Join(
			edgefn.Publish(ctx, "test/text", "grüße"),
			edgefn.Publish(ctx, "test/bytes", []byte{0xff, 1}, edgefn.QoS(0), edgefn.Retain()),
			edgefn.Publish(ctx, "test/json", map[string]bool{"on": true}, edgefn.QoS(2)),
			edgefn.Publish(ctx, "test/empty", nil, edgefn.Retain()),
		)
	case "properties":
		return nil, errors.Join(
			edgefn.Publish(ctx, "test/properties", "x", edgefn.ContentType("text/plain"), edgefn.ResponseTopic("test/answer"),
				edgefn.Correlation([]byte{0xff, 1}), edgefn.Expiry(1500*time.Millisecond),
				edgefn.UserProperty("tag", "a"), edgefn.UserProperty("tag", "b"), edgefn.UserProperty("Größe", "ü=ü")),
			edgefn.Publish(ctx, "test/one", "x", edgefn.UserProperty("tag", "")),
		)
	case "properties-refused":
		got := map[string]string{}
		for what, option := range map[string]edgefn.PublishOption{
			"expiry": edgefn.Expiry(-time.Second), "response": edgefn.ResponseTopic("a/#"), "user": edgefn.UserProperty("k", "\x00"),
		} {
			if err := edgefn.Publish(ctx, "test/wrong", "x", option); err != nil {
				got[what] = err.Error()
			}
		}
		return got, nil
	case "reply", "reply-nobody", "reply-ungranted":
		return nil, edgefn.Reply(ctx, e, map[string]bool{"ok": true}, edgefn.QoS(2), edgefn.ContentType("application/json"),
			edgefn.Expiry(time.Minute), edgefn.UserProperty("tag", "a"))
	case "invoke":
		first, err := edgefn.Invoke(ctx, "sink", map[string]int{"n": 1})
		if err != nil {
			return nil, err
		}
		second, err := edgefn.Invoke(ctx, "sink", "x", edgefn.Type("test.special"), edgefn.Subject("über"), edgefn.ID("my-id"))
		return []string{first, second}, err
	case "ungranted":
		_, get := edgefn.State(ctx).Of("secret").Get("k")
		_, invoke := edgefn.Invoke(ctx, "stranger", "x")
		got := map[string]string{}
		for what, err := range map[string]error{
			"get": get, "put": edgefn.State(ctx).Of("secret").Put("k", nil),
			"publish": edgefn.Publish(ctx, "forbidden/topic", "x"), "invoke": invoke,
		} {
			if errors.Is(err, edgefn.ErrRefused) {
				got[what] = err.Error()
			}
		}
		return got, nil
	case "ungranted-uncaught":
		return nil, edgefn.Publish(ctx, "forbidden/topic", "x")
	case "lines":
		return lines(ctx)
	case "lines-and-raise":
		if err := edgefn.Line(ctx, "relay").Set(true); err != nil {
			return nil, nil // which the test sees as a success
		}
		return nil, errors.New("no further")
	case "sensor":
		return edgefn.Sensor(ctx, "greenhouse").Read()
	case "device-refused":
		_, read := edgefn.Line(ctx, "siren").Read()
		_, sensor := edgefn.Sensor(ctx, "attic").Read()
		_, fault := edgefn.Sensor(ctx, "soil").Read()
		relay := edgefn.Line(ctx, "relay")
		got := map[string]string{}
		for what, err := range map[string]error{
			"ungranted-line": edgefn.Line(ctx, "siren").Set(true), "ungranted-read": read, "ungranted-sensor": sensor,
			"input": edgefn.Line(ctx, "door").Set(true), "no-time": relay.Pulse(0), "long": relay.Pulse(time.Minute + time.Millisecond),
			"fault": fault,
		} {
			if errors.Is(err, edgefn.ErrRefused) {
				got[what] = err.Error()
			}
		}
		return got, nil
	case "device-refused-uncaught":
		return nil, edgefn.Line(ctx, "siren").Pulse(200 * time.Millisecond)
	case "log":
		log := edgefn.Log(ctx)
		log.Debug("fine detail")
		log.Info(fmt.Sprintf("it is %d °C", 28))
		log.Log(ctx, slog.LevelWarn, "getting warm")
		log.Error("on fire")
		return nil, nil
	case "output":
		fmt.Println("to standard output, ☃")
		fmt.Fprintln(os.Stderr, "to standard error")
		return nil, nil
	case "env":
		return os.Getenv("GREETING"), nil
	case "secret":
		dir := os.Getenv("TEST_SECRETS")
		if dir == "" {
			dir = "/run/secrets"
		}
		return os.ReadFile(dir + "/token")
	case "raise":
		return nil, fmt.Errorf("read the sensor: %w", errors.New("it broke"))
	case "reject":
		if err := errors.Join(edgefn.State(ctx).Put("half", []byte("done")), edgefn.Publish(ctx, "test/half", "done")); err != nil {
			return nil, nil // which the test sees as a success
		}
		return "half", edgefn.Reject(errors.New("no zone of that name"))
	case "reject-cause":
		return nil, fmt.Errorf("find the zone: %w", edgefn.Reject(errors.New("no zone of that name")))
	case "retry":
		after, err := time.ParseDuration(e.Text() + "s")
		if err != nil {
			return nil, nil // which the test sees as a success
		}
		return nil, edgefn.RetryAfter(errors.New("the valve is moving"), after)
	case "panic":
		brokenPart()
	case "exit":
		os.Exit(3)
	case "leaves-a-child":
		return "done", exec.Command("sleep", "60").Start()
	case "unserialisable":
		return make(chan int), nil
	case "too-large":
		return bytes.Repeat([]byte("x"), 2<<20), nil
	case "too-large-call":
		return nil, edgefn.State(ctx).Put("big", make([]byte, 2<<20))
	case "count":
		return strconv.Itoa(seen), nil
	}
	return nil, fmt.Errorf("unknown case %s", e.Type)
}

func state(ctx context.Context, e edgefn.Event) (any, error) {
	s := edgefn.State(ctx)
	text := func(key string) string {
		b, _ := s.Get(key)
		return string(b)
	}
	has := func(key string) bool {
		_, err := s.Get(key)
		return !errors.Is(err, edgefn.ErrNotFound)
	}
	saw := map[string]any{"there": text("there"), "absent": text("absent"), "has": has("there"), "hasnt": has("absent")}
	err := errors.Join(
		s.Put("a/1", []byte("old")), s.Put("a/1", []byte("new")), s.Put("a/2", nil), s.Put("data", e.Data),
		s.Delete("there"), s.Delete("absent"),
	)
	if err != nil {
		return nil, err
	}
	if b, err := s.Get("a/2"); err != nil || len(b) != 0 {
		return nil, fmt.Errorf("an empty value is %q, %w", b, err)
	}
	saw["written"], saw["deleted"] = text("a/1"), has("there")
	if saw["keys"], err = s.List(""); err != nil {
		return nil, err
	}
	saw["a"], err = s.List("a/")
	return saw, err
}

func lines(ctx context.Context) (any, error) {
	relay, saw := edgefn.Line(ctx, "relay"), map[string]bool{}
	var faults []error
	read := func(what, name string) {
		on, err := edgefn.Line(ctx, name).Read()
		saw[what], faults = on, append(faults, err)
	}
	faults = append(faults, relay.Set(false), relay.Set(true))
	read("set", "relay")
	faults = append(faults, relay.Pulse(200*time.Millisecond))
	read("pulsed", "relay")
	faults = append(faults, relay.Set(true), relay.Release())
	for _, name := range []string{"door", "hatch", "relay"} {
		read(name, name)
	}
	return saw, errors.Join(faults...)
}
