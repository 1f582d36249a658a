package main

import (
	"context"
	"io"

	"github.com/edgefn/edgefn/cross"
	"github.com/edgefn/edgefn/functions"
	"github.com/edgefn/edgefn/node"
	"github.com/edgefn/edgefn/node/api"
	"github.com/edgefn/edgefn/node/backup"
	"github.com/edgefn/edgefn/node/doctor"
)

// tools are the parts of the product that commands set to work.
type tools interface {
	// Build makes an image of a function.
	Build(ctx context.Context, b buildRequest) (image, error)
	// Scaffold writes a function that deploys as it is into the folder dir.
	Scaffold(dir, name string, rt functions.Runtime) error
	// RunNode runs a node until ctx is done.
	RunNode(ctx context.Context, cfg node.Config) error
	// BackupData writes a backup of a node that does not run, RestoreData restores
	// one: see package node.
	BackupData(ctx context.Context, cfg node.Config, o api.BackupOptions, w io.Writer) error
	RestoreData(ctx context.Context, cfg node.Config, r io.Reader, progress func(bytes int64), confirm func(i backup.Info, replaced string) error) (api.Restored, error)
	// Machine is what doctor looks at; status asks its node.
	Machine(status func(context.Context) (api.Status, error)) doctor.Machine
	// Safe puts every output of a config to its safe value and returns the names
	// of those that are.
	Safe(ctx context.Context, cfg node.Config) ([]string, error)
}

// buildRequest says what is built.
type buildRequest struct {
	dir       string       // the function's folder
	platforms []string     // such as linux/arm/v7; none: this machine's
	python    string       // version of the node's python, such as 3.11.2; may be empty
	step      func(string) // called with what is being done
}

// image is a built function.
type image interface {
	// Close lets go of what the image holds on disk.
	Close() error
	// Digest of the image index: the version.
	Digest() string
	WriteLayout(dir string) error
	WriteTar(w io.Writer) error
	// Blobs are what it is made of; WriteTarWithout leaves out those of which
	// the digest is in there.
	Blobs() []cross.Blob
	WriteTarWithout(w io.Writer, there map[string]bool) error
}
