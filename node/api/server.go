package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/edgefn/edgefn/functions"
)

// Header is what every answer of a node carries, with the API's version: by it
// a client knows that it talks to a node.
const Header = "Edgefn-Api"

// Version of the API that this package serves and asks for.
const Version = "v1"

// Defaults of Options.
const (
	DefaultMaxImage = 1 << 30  // bytes of a deployed image
	DefaultMaxCopy  = 64 << 30 // bytes of a backup, or a state
	DefaultMaxBody  = 8 << 20  // bytes of any other request
)

// Options of a server.
type Options struct {
	Logger   *slog.Logger // nil discards
	MaxImage int64        // bytes of a deployed image; 0: DefaultMaxImage
	MaxCopy  int64        // bytes of a backup or a state that comes; 0: DefaultMaxCopy
	MaxBody  int64        // bytes of any other request; 0: DefaultMaxBody
	// Starting returns why the Backend can be asked for nothing yet but its Status
	// and its Health; nil: it can. A nil Starting is one that returns nil.
	Starting func() error
}

type server struct {
	b        Backend
	starting func() error
	log      *slog.Logger
	maxImage int64
	maxCopy  int64
	maxBody  int64
	mux      *http.ServeMux
	classes  map[string]class        // by pattern
	slots    map[class]chan struct{} // one entry per request being served; full: ErrOverloaded
	probes   singleflight.Group      // of the Backend's health
}

// route is what serves a pattern, and the class of its requests.
type route struct {
	class class
	serve func(http.ResponseWriter, *http.Request) error
}

// NewServer returns the handler that serves b under /v1. It starts nothing and
// may be served by any number of listeners.
func NewServer(b Backend, o Options) http.Handler {
	s := &server{
		b:        b,
		log:      o.Logger,
		maxImage: o.MaxImage,
		maxCopy:  o.MaxCopy,
		maxBody:  o.MaxBody,
		starting: o.Starting,
		mux:      http.NewServeMux(),
		classes:  map[string]class{},
		slots:    map[class]chan struct{}{},
	}
	for c, b := range bounds {
		if c != free {
			s.slots[c] = make(chan struct{}, b.slots)
		}
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.maxImage <= 0 {
		s.maxImage = DefaultMaxImage
	}
	if s.maxCopy <= 0 {
		s.maxCopy = DefaultMaxCopy
	}
	if s.maxBody <= 0 {
		s.maxBody = DefaultMaxBody
	}
	if s.starting == nil {
		s.starting = func() error { return nil }
	}
	for pattern, r := range map[string]route{
		"GET /v1":                                    {free, s.hello},
		"GET /v1/health":                             {free, s.health},
		statusPattern:                                {reads, s.status},
		"GET /v1/usage":                              {reads, s.usage},
		"GET /v1/mqtt/clients":                       {reads, s.mqttClients},
		"GET /v1/devices":                            {reads, s.devices},
		"POST /v1/devices/{name}/simulate":           {changes, s.simulate},
		"GET /v1/functions":                          {reads, s.functions},
		"POST /v1/functions":                         {uploads, s.deploy},
		"GET /v1/functions/{name}":                   {reads, s.describe},
		"DELETE /v1/functions/{name}":                {versions, s.remove},
		"GET /v1/functions/{name}/kept":              {reads, s.kept},
		"POST /v1/functions/{name}/invoke":           {invocations, s.invoke},
		"POST /v1/functions/{name}/rollback":         {versions, s.rollback},
		"POST /v1/functions/{name}/pause":            {changes, s.pause},
		"POST /v1/functions/{name}/resume":           {changes, s.resume},
		"GET /v1/functions/{name}/logs":              {streams, s.logs},
		"GET /v1/backup":                             {copies, s.backup},
		"POST /v1/restore":                           {copies, s.restore},
		"GET /v1/functions/{name}/export":            {copies, s.stateExport},
		"POST /v1/functions/{name}/import":           {copies, s.stateImport},
		"GET /v1/functions/{name}/state":             {reads, s.stateList},
		"GET /v1/functions/{name}/state/{key...}":    {reads, s.stateGet},
		"PUT /v1/functions/{name}/state/{key...}":    {changes, s.statePut},
		"DELETE /v1/functions/{name}/state/{key...}": {changes, s.stateDelete},
		"GET /v1/functions/{name}/dead":              {reads, s.deadList},
		"DELETE /v1/functions/{name}/dead":           {changes, s.deadDelete},
		"POST /v1/functions/{name}/dead/retry":       {invocations, s.deadRetry},
		"GET /v1/functions/{name}/dead/{id}":         {reads, s.deadShow},
		"DELETE /v1/functions/{name}/dead/{id}":      {changes, s.deadDelete},
		"POST /v1/functions/{name}/dead/{id}/retry":  {invocations, s.deadRetry},
		"POST /v1/versions/{version}/missing":        {changes, s.missing},
	} {
		s.classes[pattern] = r.class
		s.mux.HandleFunc(pattern, func(w http.ResponseWriter, q *http.Request) {
			if err := r.serve(w, q); err != nil {
				writeProblem(w, problemOf(err))
			}
		})
	}
	return s
}

// statusPattern is served by a Backend that is starting.
const statusPattern = "GET /v1/status"

// ServeHTTP implements http.Handler.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	w.Header().Set(Header, Version)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	_, pattern := s.mux.Handler(r)
	c := s.classes[pattern]
	rec := newRecorder(w, bounds[c])
	if r.ContentLength != 0 {
		limit := s.maxBody
		switch c { //nolint:exhaustive // all others have the same
		case uploads:
			limit = s.maxImage
		case copies:
			limit = s.maxCopy
		}
		rec.body = newBody(rec, r, bounds[c], limit)
		r.Body = rec.body
		defer rec.body.leave()
	}
	defer func() {
		s.log.Debug("request", "method", r.Method, "path", r.URL.Path, "status", rec.status, "took", time.Since(began))
	}()

	if pattern == "" {
		s.unrouted(rec, r)
		return
	}
	if c != free && pattern != statusPattern {
		if err := s.starting(); err != nil {
			writeProblem(rec, problemOf(err))
			return
		}
	}
	if c != free {
		select {
		case s.slots[c] <- struct{}{}:
			defer func() { <-s.slots[c] }()
		default:
			writeProblem(rec, problemOf(bounds[c].full()))
			return
		}
	}
	s.mux.ServeHTTP(rec, r)
}

// unrouted answers a request that no pattern serves: 405 with Allow where
// another method would do, else 404.
func (s *server) unrouted(w http.ResponseWriter, r *http.Request) {
	probe := &probe{header: http.Header{}}
	s.mux.ServeHTTP(probe, r)
	if allow := probe.header.Get("Allow"); allow != "" {
		w.Header().Set("Allow", allow)
		writeProblem(w, problemOf(&Error{
			Err:     errMethod,
			Message: fmt.Sprintf("%s %s: method is not allowed", r.Method, shorten(r.URL.Path)),
			Hint:    "it allows " + allow,
		}))
		return
	}
	writeProblem(w, problemOf(&Error{
		Err:     errNoRoute,
		Message: fmt.Sprintf("%s %s: no such resource", r.Method, shorten(r.URL.Path)),
		Hint:    "this node serves the API under /" + Version,
	}))
}

// probe is a ResponseWriter that keeps only the header.
type probe struct{ header http.Header }

// Header implements http.ResponseWriter.
func (p *probe) Header() http.Header { return p.header }

// Write implements http.ResponseWriter.
func (p *probe) Write(b []byte) (int, error) { return len(b), nil }

// WriteHeader implements http.ResponseWriter.
func (p *probe) WriteHeader(int) {}

func writeProblem(w http.ResponseWriter, p *Problem) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	writeLine(w, p)
}

// writeLine writes v as one line of JSON. An error means that the client has
// gone, which the request's context tells too.
func writeLine(w io.Writer, v any) {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v)
}

// reply answers with v as JSON, or hands err on.
func reply(w http.ResponseWriter, v any, err error) error {
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	writeLine(w, v)
	return nil
}

// list answers with a JSON array, which is [] and not null when it is empty.
func list[T any](w http.ResponseWriter, vs []T, err error) error {
	if vs == nil {
		vs = []T{}
	}
	return reply(w, vs, err)
}

// target returns the function that the path names.
func target(r *http.Request) (string, error) {
	name := r.PathValue("name")
	return name, checkName(name)
}

// query returns the query's values, refusing parameters that are not known.
func query(r *http.Request, known ...string) (url.Values, error) {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, fmt.Errorf("query: %v: %w", err, ErrInvalid) //nolint:errorlint // ErrInvalid classifies it
	}
	for k := range q {
		ok := false
		for _, n := range known {
			ok = ok || k == n
		}
		if !ok {
			return nil, fmt.Errorf("unknown query parameter %s; known are: %s: %w", shorten(k), strings.Join(known, ", "), ErrInvalid)
		}
	}
	return q, nil
}

// bodyErr classifies an error of reading a request's body.
func bodyErr(err error, what string) error {
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return fmt.Errorf("%s is over %d bytes: %w", what, large.Limit, errTooLarge)
	}
	if errors.Is(err, errSlow) {
		return &Error{
			Err:     errSlow,
			Message: fmt.Sprintf("read %s: %v", what, err),
			Hint:    "try again, over a better link if it is the link that is slow",
		}
	}
	return fmt.Errorf("read %s: %v: %w", what, err, ErrInvalid) //nolint:errorlint // ErrInvalid classifies it
}

// decode reads the one JSON object that a request's body is.
func decode(r *http.Request, v any, what string) error {
	dec := json.NewDecoder(r.Body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return bodyErr(err, what)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s has something behind its JSON object: %w", what, ErrInvalid)
	}
	return nil
}

// hello says that a node is here.
func (s *server) hello(w http.ResponseWriter, _ *http.Request) error {
	return reply(w, map[string]string{"api": Version}, nil)
}

func (s *server) status(w http.ResponseWriter, r *http.Request) error {
	v, err := s.b.Status(r.Context())
	return reply(w, v, err)
}

func (s *server) mqttClients(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "after", "limit")
	if err != nil {
		return err
	}
	if len(q.Get("after")) > maxClient {
		return fmt.Errorf("after %s: at most %d bytes are allowed: %w", shorten(q.Get("after")), maxClient, ErrInvalid)
	}
	limit, err := page(q)
	if err != nil {
		return err
	}
	v, err := s.b.MQTTClients(r.Context(), q.Get("after"), limit)
	return list(w, v, err)
}

func (s *server) devices(w http.ResponseWriter, r *http.Request) error {
	v, err := s.b.Devices(r.Context())
	return reply(w, v, err)
}

func (s *server) simulate(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "what")
	if err != nil {
		return err
	}
	name, what := r.PathValue("name"), q.Get("what")
	if err := errors.Join(checkDevice(name), checkText("simulation", what, maxID)); err != nil {
		return err
	}
	return empty(w, s.b.Simulate(r.Context(), name, what))
}

func (s *server) usage(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "function")
	if err != nil {
		return err
	}
	name := q.Get("function")
	if name != "" {
		if err := checkName(name); err != nil {
			return err
		}
	}
	v, err := s.b.Usage(r.Context(), name)
	return list(w, v, err)
}

func (s *server) functions(w http.ResponseWriter, r *http.Request) error {
	v, err := s.b.Functions(r.Context())
	return list(w, v, err)
}

func (s *server) describe(w http.ResponseWriter, r *http.Request) error {
	name, err := target(r)
	if err != nil {
		return err
	}
	v, err := s.b.Describe(r.Context(), name)
	return reply(w, v, err)
}

func (s *server) remove(w http.ResponseWriter, r *http.Request) error {
	name, err := target(r)
	if err != nil {
		return err
	}
	var o RemoveOptions
	switch keep := r.URL.Query().Get("keep_state"); keep {
	case "", "false":
	case "true":
		o.KeepState = true
	default:
		return fmt.Errorf("keep_state %s: true or false are possible: %w", shorten(keep), ErrInvalid)
	}
	return empty(w, s.b.Remove(r.Context(), name, o))
}

func (s *server) kept(w http.ResponseWriter, r *http.Request) error {
	name, err := target(r)
	if err != nil {
		return err
	}
	k, err := s.b.Kept(r.Context(), name)
	return reply(w, k, err)
}

// empty answers that it is done, with no content.
func empty(w http.ResponseWriter, err error) error {
	if err == nil {
		w.WriteHeader(http.StatusNoContent)
	}
	return err
}

func (s *server) invoke(w http.ResponseWriter, r *http.Request) error {
	name, err := target(r)
	if err != nil {
		return err
	}
	var req InvokeRequest
	if err := decode(r, &req, "the event"); err != nil {
		return err
	}
	if req.Wait < 0 {
		return fmt.Errorf("wait is %v, it cannot be negative: %w", req.Wait, ErrInvalid)
	}
	v, err := s.b.Invoke(r.Context(), name, req)
	return reply(w, v, err)
}

// page is how many of a listing are asked for.
func page(q url.Values) (int, error) {
	t := q.Get("limit")
	if t == "" {
		return maxPage, nil
	}
	n, err := strconv.Atoi(t)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("limit %s is not a number from 0: %w", shorten(t), ErrInvalid)
	}
	if n == 0 {
		return maxPage, nil
	}
	return min(n, maxPage), nil
}

func (s *server) stateList(w http.ResponseWriter, r *http.Request) error {
	name, err := target(r)
	if err != nil {
		return err
	}
	q, err := query(r, "prefix", "after", "limit")
	if err != nil {
		return err
	}
	if err := errors.Join(checkPrefix("prefix", q.Get("prefix")), checkPrefix("after", q.Get("after"))); err != nil {
		return err
	}
	limit, err := page(q)
	if err != nil {
		return err
	}
	v, err := s.b.StateList(r.Context(), name, q.Get("prefix"), q.Get("after"), limit)
	return list(w, v, err)
}

// stateTarget returns the function and the key that the path names.
func stateTarget(r *http.Request) (name, key string, err error) {
	if name, err = target(r); err != nil {
		return "", "", err
	}
	key = r.PathValue("key")
	return name, key, checkKey(key)
}

func (s *server) stateGet(w http.ResponseWriter, r *http.Request) error {
	name, key, err := stateTarget(r)
	if err != nil {
		return err
	}
	v, err := s.b.StateGet(r.Context(), name, key)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.Itoa(len(v)))
	_, _ = w.Write(v) //nolint:gosec // bytes for the one who asked, typed so; an error means that the client has gone
	return nil
}

func (s *server) statePut(w http.ResponseWriter, r *http.Request) error {
	name, key, err := stateTarget(r)
	if err != nil {
		return err
	}
	v, err := io.ReadAll(http.MaxBytesReader(w, r.Body, functions.MaxValue))
	if err != nil {
		return bodyErr(err, "the value")
	}
	return empty(w, s.b.StatePut(r.Context(), name, key, v))
}

func (s *server) stateDelete(w http.ResponseWriter, r *http.Request) error {
	name, key, err := stateTarget(r)
	if err != nil {
		return err
	}
	return empty(w, s.b.StateDelete(r.Context(), name, key))
}

func (s *server) deadList(w http.ResponseWriter, r *http.Request) error {
	name, err := target(r)
	if err != nil {
		return err
	}
	v, err := s.b.DeadList(r.Context(), name)
	return list(w, v, err)
}

// deadTarget returns the function and the letter that the path names; a path
// without a letter means all and gives an empty id.
func deadTarget(r *http.Request) (name, id string, err error) {
	if name, err = target(r); err != nil {
		return "", "", err
	}
	if id = r.PathValue("id"); id != "" {
		err = checkText("dead letter's id", id, maxID)
	}
	return name, id, err
}

func (s *server) deadShow(w http.ResponseWriter, r *http.Request) error {
	name, id, err := deadTarget(r)
	if err != nil {
		return err
	}
	v, err := s.b.DeadShow(r.Context(), name, id)
	return reply(w, v, err)
}

func (s *server) deadRetry(w http.ResponseWriter, r *http.Request) error {
	return s.deadDo(w, r, s.b.DeadRetry)
}

func (s *server) deadDelete(w http.ResponseWriter, r *http.Request) error {
	return s.deadDo(w, r, s.b.DeadDelete)
}

func (s *server) deadDo(w http.ResponseWriter, r *http.Request, do func(ctx context.Context, name, id string) (DeadOutcome, error)) error {
	name, id, err := deadTarget(r)
	if err != nil {
		return err
	}
	v, err := do(r.Context(), name, id)
	return reply(w, v, err)
}
