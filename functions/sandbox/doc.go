// Package sandbox is the adapter of containerd, and its only importer: images
// in, sandboxes up and down, limits, grants.
//
// A sandbox is one container for one function version: its own user, pid,
// mount, IPC, UTS, network and cgroup namespaces, a read-only root that
// belongs to the host, no privilege outside its user namespace, and
// edgefn-init as process 1. The node's only door into it is a Unix socket.
// Each instance gets a cell inside (package init/cell) and a cgroup of its own
// (beside the container's), so that limits and metering are the kernel's.
//
// Of devices a sandbox has those that every program needs, null, zero, random
// and their like, and a node of its own for each raw bus that it is granted.
//
// The root is an overlay that the node mounts: the image's layers over a
// skeleton with every mount point, so that containerd never has to change an
// image to fit a user namespace. With no image named, the node's own /usr is
// mapped in, read-only.
//
// What Import has returned outlasts a loss of power. containerd flushes its own
// records and blobs but not the files that it unpacks, so the node does, and
// then marks their snapshot; what has no mark when the node starts is removed
// and unpacked anew. Images with the same files share a snapshot: each image
// keeps it by a label, each sandbox by its view.
package sandbox
