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
	keyFree      = "free_bytes"
	keyReserve   = "reserve_bytes"
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

// goesOn are the messages after which a goroutine of etcd that fails may go on,
// so that the run ends in order and lets go of what it holds. By then the store
// believes the run nothing more and its files are out of its reach, see
// server.disarm. After any other, the goroutine ends where it is: etcd does not
// expect to go on from there.
var goesOn = map[string]bool{
	"failed to save Raft hard state and entries": true, // the log
	"failed to close Raft storage":               true,
	"failed to commit tx":                        true, // the database
	"failed to rollback tx":                      true,
	"failed to save snapshot":                    true,
	"failed to purge wal file":                   true,
	"failed to purge snap file":                  true,
	"failed to purge snap db file":               true,
}

// bridge hands etcd's warnings and errors to log until done: what it says as it
// is closed is of no use. Where etcd would end the process, fatal is told why,
// and at most the goroutine ends.
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
	if goesOn[ce.Message] {
		return
	}
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
