package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

// maxBlobs is how many blobs one question may name. An image has three for each
// platform, one more, and its layers.
const maxBlobs = 4096

// blobsRequest and blobsAnswer are what POST /v1/versions/VERSION/missing takes
// and gives.
type (
	blobsRequest struct {
		Blobs []string `json:"blobs"`
	}
	blobsAnswer struct {
		Missing []string `json:"missing"`
	}
)

// checkDigest reports why s cannot name content.
func checkDigest(what, s string) error {
	hex, ok := strings.CutPrefix(s, "sha256:")
	ok = ok && len(hex) == 64
	for _, c := range []byte(hex) {
		ok = ok && (c >= '0' && c <= '9' || c >= 'a' && c <= 'f')
	}
	if !ok {
		return fmt.Errorf("%s %s: sha256: and 64 hexadecimal digits make a digest: %w", what, shorten(s), ErrInvalid)
	}
	return nil
}

func checkBlobs(version string, blobs []string) error {
	if err := checkDigest("version", version); err != nil {
		return err
	}
	if len(blobs) > maxBlobs {
		return fmt.Errorf("%d blobs are asked for, at most %d are allowed: %w", len(blobs), maxBlobs, ErrInvalid)
	}
	for _, b := range blobs {
		if err := checkDigest("blob", b); err != nil {
			return err
		}
	}
	return nil
}

// Missing implements Backend.
func (c *Client) Missing(ctx context.Context, version string, blobs []string) ([]string, error) {
	if err := checkBlobs(version, blobs); err != nil {
		return nil, err
	}
	b, err := json.Marshal(blobsRequest{Blobs: blobs})
	if err != nil {
		return nil, fmt.Errorf("encode blobs: %w", err)
	}
	a, err := ask[blobsAnswer](ctx, c, call{
		method: http.MethodPost, path: "/versions/" + escape(version) + "/missing",
		body: bytes.NewReader(b), ctype: "application/json",
	})
	return a.Missing, err
}

func (s *server) missing(w http.ResponseWriter, r *http.Request) error {
	var req blobsRequest
	if err := decode(r, &req, "the list of blobs"); err != nil {
		return err
	}
	version := r.PathValue("version")
	if err := checkBlobs(version, req.Blobs); err != nil {
		return err
	}
	missing, err := s.b.Missing(r.Context(), version, req.Blobs)
	if missing == nil {
		missing = []string{}
	}
	return reply(w, blobsAnswer{Missing: missing}, err)
}
