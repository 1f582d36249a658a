package api

import (
	"context"
	"errors"
	"net/http"
	"net/url"
)

// Paused is what of a function is paused.
type Paused struct {
	Function string   `json:"function"`
	Paused   bool     `json:"paused"`             // the function whole
	Triggers []string `json:"triggers,omitempty"` // else these
}

// checkTrigger reports why s cannot name a trigger; empty means all of them.
func checkTrigger(s string) error {
	if s == "" {
		return nil
	}
	return checkText("trigger's name", s, maxName)
}

// pause serves Pause and Resume.
func pause(w http.ResponseWriter, r *http.Request, do func(ctx context.Context, name, trigger string) (Paused, error)) error {
	name, err := target(r)
	if err != nil {
		return err
	}
	q, err := query(r, "trigger")
	if err != nil {
		return err
	}
	trigger := q.Get("trigger")
	if err := checkTrigger(trigger); err != nil {
		return err
	}
	v, err := do(r.Context(), name, trigger)
	return reply(w, v, err)
}

func (s *server) pause(w http.ResponseWriter, r *http.Request) error { return pause(w, r, s.b.Pause) }

func (s *server) resume(w http.ResponseWriter, r *http.Request) error { return pause(w, r, s.b.Resume) }

// Pause implements Backend.
func (c *Client) Pause(ctx context.Context, name, trigger string) (Paused, error) {
	return c.pause(ctx, "pause", name, trigger)
}

// Resume implements Backend.
func (c *Client) Resume(ctx context.Context, name, trigger string) (Paused, error) {
	return c.pause(ctx, "resume", name, trigger)
}

func (c *Client) pause(ctx context.Context, what, name, trigger string) (Paused, error) {
	if err := errors.Join(checkName(name), checkTrigger(trigger)); err != nil {
		return Paused{}, err
	}
	q := url.Values{}
	if trigger != "" {
		q.Set("trigger", trigger)
	}
	return ask[Paused](ctx, c, call{method: http.MethodPost, path: fn(name, what), query: q})
}
