package etcd

import (
	"errors"
	"log/slog"
	"strings"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Keys of log attributes.
const (
	keyComponent = "component"
	keyErr       = "err"
	keyUsed      = "used_bytes"
	keyFile      = "file_bytes"
)

// quiet are the start of warnings that etcd gives as it starts: about what is so
// by design here, no client port and tokens that nobody uses; and about its
// storage version, where it looks before its first commit and looks again later.
var quiet = []string{
	"Running http and grpc server on single port",
	"simple token is not cryptographically signed",
	"Failed to detect schema version",
	"failed to update storage version",
}

// bridge hands etcd's warnings and errors to log until done: what it says as it
// is closed is of no use. Where etcd would end the process, fatal is told why
// and only the goroutine ends.
func bridge(log *slog.Logger, done <-chan struct{}, fatal func(error)) *zap.Logger {
	end := endGoroutine{fatal}
	return zap.New(slogCore{log: log, done: done}, zap.WithFatalHook(end), zap.WithPanicHook(end))
}

// slogCore is a zap core that writes to slog.
type slogCore struct {
	log  *slog.Logger
	done <-chan struct{}
	with []zapcore.Field
}

// Enabled implements zapcore.Core.
func (slogCore) Enabled(l zapcore.Level) bool { return l >= zapcore.WarnLevel }

// With implements zapcore.Core.
func (c slogCore) With(fs []zapcore.Field) zapcore.Core {
	return slogCore{log: c.log, done: c.done, with: append(c.with[:len(c.with):len(c.with)], fs...)}
}

// Check implements zapcore.Core.
func (c slogCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	select {
	case <-c.done:
		return ce
	default:
	}
	for _, q := range quiet {
		if strings.HasPrefix(e.Message, q) {
			return ce
		}
	}
	if c.Enabled(e.Level) {
		return ce.AddCore(e, c)
	}
	return ce
}

// Write implements zapcore.Core.
func (c slogCore) Write(e zapcore.Entry, fs []zapcore.Field) error {
	enc := zapcore.NewMapObjectEncoder()
	for _, f := range c.with {
		f.AddTo(enc)
	}
	for _, f := range fs {
		f.AddTo(enc)
	}
	log := c.log.Warn
	if e.Level > zapcore.WarnLevel {
		log = c.log.Error
	}
	log("etcd reports", "report", e.Message, "detail", enc.Fields)
	return nil
}

// Sync implements zapcore.Core.
func (slogCore) Sync() error { return nil }

// endGoroutine stands where zap would end the process.
type endGoroutine struct{ fatal func(error) }

// OnWrite implements zapcore.CheckWriteHook.
func (h endGoroutine) OnWrite(ce *zapcore.CheckedEntry, fs []zapcore.Field) {
	h.fatal(reason(ce.Message, fs))
	zapcore.WriteThenGoexit.OnWrite(ce, fs)
}

// reason is an error of a log line, with the error among its fields wrapped.
func reason(message string, fs []zapcore.Field) error {
	for _, f := range fs {
		if err, ok := f.Interface.(error); ok && f.Type == zapcore.ErrorType {
			return &etcdError{message, err}
		}
	}
	return errors.New(message)
}

// etcdError is a message of etcd with its cause.
type etcdError struct {
	message string
	cause   error
}

func (e *etcdError) Error() string { return e.message + ": " + e.cause.Error() }
func (e *etcdError) Unwrap() error { return e.cause }
