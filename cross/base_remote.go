package cross

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// registryTimeout is how long a registry may say nothing.
const registryTimeout = 30 * time.Second

// openRemote asks a registry for the image. Its layers are read later, through
// the same connections; a registry that falls silent ends the build.
func (s *baseSource) openRemote(ctx context.Context) error {
	ref, err := name.ParseReference(s.ref)
	if err != nil {
		return fmt.Errorf("base image %q is no reference to an image, and no folder or tar in the function's folder: %w", s.ref, err)
	}
	d, err := remote.Get(ref, remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain),
		remote.WithTransport(patientTransport()), remote.WithRetryBackoff(remote.Backoff{Duration: time.Second, Factor: 2, Steps: 2}))
	if err != nil {
		return fmt.Errorf("base image %s: %s: %w", ref.Name(), registryHint(err), err)
	}
	if d.MediaType.IsIndex() {
		s.index, err = d.ImageIndex()
	} else {
		s.image, err = d.Image()
	}
	if err != nil {
		return fmt.Errorf("base image %s: %w", ref.Name(), err)
	}
	return nil
}

func registryHint(err error) string {
	var te *transport.Error
	if errors.As(err, &te) {
		switch te.StatusCode {
		case http.StatusUnauthorized, http.StatusForbidden:
			return "the registry refuses; is the name right, and are you logged in to it"
		case http.StatusNotFound:
			return "the registry does not have it"
		}
		return "the registry answers with an error"
	}
	return "the registry cannot be reached; without a network name an OCI layout folder or a tar of one instead, such as ./base.tar"
}

// patientTransport bounds each silence, not the whole transfer: a large layer
// over a slow line may take its time.
func patientTransport() http.RoundTripper {
	d := &net.Dialer{Timeout: registryTimeout}
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := d.DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return &impatientConn{Conn: c, limit: registryTimeout}, nil
		},
		TLSHandshakeTimeout:   registryTimeout,
		ResponseHeaderTimeout: registryTimeout,
		ForceAttemptHTTP2:     false,
		MaxIdleConns:          4,
		IdleConnTimeout:       registryTimeout,
	}
}

// impatientConn gives up when nothing arrives or leaves for limit.
type impatientConn struct {
	net.Conn
	limit time.Duration
}

// Read implements net.Conn.
func (c *impatientConn) Read(b []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(c.limit)); err != nil {
		return 0, err
	}
	return c.Conn.Read(b)
}

// Write implements net.Conn.
func (c *impatientConn) Write(b []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(c.limit)); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}
