package edgefn

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
)

// logHandler sends records to the function's log as lines of the message and
// then key=value. The log adds the time and the invocation.
type logHandler struct {
	node   node
	attrs  string // what WithAttrs added, ready to be appended
	prefix string // of keys, from WithGroup
}

var _ slog.Handler = (*logHandler)(nil)

// Enabled implements slog.Handler: every level is on.
func (*logHandler) Enabled(context.Context, slog.Level) bool { return true }

// Handle implements slog.Handler.
func (h *logHandler) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	b.WriteString(r.Message)
	b.WriteString(h.attrs)
	r.Attrs(func(a slog.Attr) bool {
		writeAttr(&b, h.prefix, a)
		return true
	})
	level := "debug"
	switch {
	case r.Level >= slog.LevelError:
		level = "error"
	case r.Level >= slog.LevelWarn:
		level = "warning"
	case r.Level >= slog.LevelInfo:
		level = "info"
	}
	return h.node.log(level, b.String())
}

// WithAttrs implements slog.Handler.
func (h *logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	var b strings.Builder
	for _, a := range attrs {
		writeAttr(&b, h.prefix, a)
	}
	return &logHandler{h.node, h.attrs + b.String(), h.prefix}
}

// WithGroup implements slog.Handler.
func (h *logHandler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	return &logHandler{h.node, h.attrs, h.prefix + name + "."}
}

func writeAttr(b *strings.Builder, prefix string, a slog.Attr) {
	v := a.Value.Resolve()
	if v.Kind() == slog.KindGroup {
		if a.Key != "" {
			prefix += a.Key + "."
		}
		for _, member := range v.Group() {
			writeAttr(b, prefix, member)
		}
		return
	}
	if a.Equal(slog.Attr{}) {
		return
	}
	text := fmt.Sprint(v.Any())
	if v.Kind() == slog.KindTime {
		text = v.String()
	}
	if text == "" || strings.ContainsAny(text, " =\"\n\t") {
		text = strconv.Quote(text)
	}
	b.WriteString(" " + prefix + a.Key + "=" + text)
}
