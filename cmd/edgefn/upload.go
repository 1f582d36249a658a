package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/edgefn/edgefn/node/api"
)

// upload brings an image to a node, without the blobs that are there.
type upload struct {
	client *api.Client
	img    image
	wait   time.Duration
	step   func(string) // shows what is being done

	sent   int64 // bytes that went to the node, also in vain
	reused int64 // bytes of the blobs that were there
}

// deploy sends the image and returns when it serves.
func (u *upload) deploy(ctx context.Context) (api.Deployed, error) {
	u.step("asking what the node has")
	blobs := u.img.Blobs()
	names := make([]string, len(blobs))
	for i, b := range blobs {
		names[i] = b.Digest
	}
	missing, err := u.client.Missing(ctx, u.img.Digest(), names)
	if err != nil {
		return api.Deployed{}, err
	}
	there := map[string]bool{}
	for _, n := range names {
		there[n] = true
	}
	for _, m := range missing {
		delete(there, m)
	}
	d, err := u.send(ctx, there)
	if errors.Is(err, api.ErrIncomplete) && len(there) > 0 {
		// Something has gone from the node since it was asked.
		d, err = u.send(ctx, nil)
	}
	return d, err
}

// send sends the image but for what is there.
func (u *upload) send(ctx context.Context, there map[string]bool) (api.Deployed, error) {
	var whole, gone int64
	u.reused = 0
	for _, b := range u.img.Blobs() {
		if there[b.Digest] {
			u.reused += b.Size
		} else {
			whole += b.Size
		}
	}
	// The image goes from the builder to the node without being held whole.
	pr, pw := io.Pipe()
	done := make(chan struct{})
	w := &meter{w: pw, count: func(n int64) {
		u.sent += n
		gone += n
		// The tar around the blobs counts too.
		u.step(fmt.Sprintf("sending: %s of %s", size(min(gone, whole)), size(whole)))
	}}
	go func() {
		defer close(done)
		_ = pw.CloseWithError(u.img.WriteTarWithout(w, there)) // never fails
	}()
	d, err := u.client.Deploy(ctx, pr, api.DeployOptions{Wait: u.wait}, func(s api.Progress) { u.step(stepText(s)) })
	_ = pr.Close() // never fails; the writer ends if the node did not read it all
	<-done
	return d, err
}

// meter counts what is written.
type meter struct {
	w     io.Writer
	count func(int64)
}

// Write implements io.Writer.
func (m *meter) Write(b []byte) (int, error) {
	n, err := m.w.Write(b)
	m.count(int64(n))
	return n, err //nolint:wrapcheck // a writer hands on what it wraps
}
