package api

import (
	"context"
	"fmt"
	"net/http"
	"time"
)

// healthTime is how long the node's state may take to be reached.
const healthTime = 5 * time.Second

// health answers whether the node's state can be reached. It takes no slot and
// is answered within healthTime whatever the Backend does. All who ask at the
// same time share one question to the Backend, so one that never answers costs
// one goroutine.
func (s *server) health(w http.ResponseWriter, r *http.Request) error {
	answer := s.probes.DoChan("", func() (any, error) { //nolint:contextcheck // it outlives the request
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), healthTime)
		defer cancel()
		return nil, s.b.Health(ctx)
	})
	late := time.NewTimer(healthTime)
	defer late.Stop()
	select {
	case a := <-answer:
		return empty(w, a.Err)
	case <-late.C:
		return &Error{
			Err:     ErrTimeout,
			Message: fmt.Sprintf("the node's state cannot be reached: something has held it for %v", healthTime),
			Hint:    "if this stays, the node is stuck: restart it, and report its log",
		}
	case <-r.Context().Done():
		return r.Context().Err()
	}
}

// Health implements Backend. Each call makes a connection of its own, so that it
// proves that the node takes one.
func (c *Client) Health(ctx context.Context) error {
	if err := c.hello(ctx); err != nil {
		return err
	}
	c.http.CloseIdleConnections()
	_, err := c.raw(ctx, call{method: http.MethodGet, path: "/health", alone: true})
	return err
}
