// Package control is what a node and the edgefn-init of a sandbox say to each
// other: small messages, with file descriptors beside them, on a Unix
// sequenced-packet socket. Events never pass here: each instance has a socket
// of its own, whose other end the node keeps.
//
//	init                                   node
//	ready {v}                       ->
//	                                <-     configure {program}
//	configured {error}              ->     error: the program cannot be run
//	                                <-     start {slot, seq} + descriptors
//	started {slot, seq, error}      ->
//	                                <-     kill {slot, seq}
//	exited {slot, seq, code, signal} ->    nothing of the process tree is left
//
// The descriptors of start are the instance's end of its wire, its stdout, its
// stderr, and then its control groups: the cgroup.procs files that it joins, or
// in the unified hierarchy the folder of the group that it is made in. The end
// of the connection ends the sandbox.
package control

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"github.com/fxamacker/cbor/v2"
)

// Version of the messages. Node and init are of one build, so just this one is spoken.
const Version = 1

// maxMessage bounds a message: an environment is at most as large as a manifest.
const maxMessage = 128 << 10

// maxFiles bounds the descriptors beside a message.
const maxFiles = 16

// Kind of a message.
type Kind string

// Kinds of messages; see the package documentation.
const (
	Ready      Kind = "ready"
	Configure  Kind = "configure"
	Configured Kind = "configured"
	Start      Kind = "start"
	Started    Kind = "started"
	Kill       Kind = "kill"
	Exited     Kind = "exited"
)

// Message is one message; which fields count is said by its kind.
type Message struct {
	Kind    Kind     `cbor:"kind"`
	V       uint     `cbor:"v,omitempty"`
	Program *Program `cbor:"program,omitempty"`
	Slot    int      `cbor:"slot,omitempty"`
	Seq     uint64   `cbor:"seq,omitempty"` // counts the instances of a slot
	Error   string   `cbor:"error,omitempty"`
	Code    int      `cbor:"code,omitempty"`
	Signal  int      `cbor:"signal,omitempty"`
}

// Program is what every instance of a sandbox runs, and its bounds.
type Program struct {
	Argv       []string `cbor:"argv"` // Argv[0] is looked up in the PATH of Env
	Env        []string `cbor:"env"`
	Dir        string   `cbor:"dir"`
	FirstUID   int      `cbor:"first_uid"`   // slot N runs as user and group FirstUID+N
	TmpBytes   int64    `cbor:"tmp_bytes"`   // size of /tmp and of /dev/shm, each
	MaxFiles   uint64   `cbor:"max_files"`   // open files of a process
	MaxProcs   uint64   `cbor:"max_procs"`   // processes and threads of an instance
	PrivateNet bool     `cbor:"private_net"` // a network namespace per instance
	Unified    bool     `cbor:"unified"`     // control groups are the unified hierarchy (v2)
}

// Conn sends and receives messages. Sending is safe for concurrent use,
// receiving is for one goroutine.
type Conn struct{ c *net.UnixConn }

// NewConn returns a Conn over a "unixpacket" connection, which it owns.
func NewConn(c *net.UnixConn) *Conn { return &Conn{c} }

// Close closes the connection.
func (c *Conn) Close() error { return c.c.Close() }

// Send sends a message with files beside it. The caller still owns the files.
func (c *Conn) Send(m Message, files ...*os.File) error {
	b, err := cbor.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode %s message: %w", m.Kind, err)
	}
	if len(b) > maxMessage {
		return fmt.Errorf("send %s message: %d bytes, at most %d are allowed", m.Kind, len(b), maxMessage)
	}
	var oob []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		oob = syscall.UnixRights(fds...)
	}
	if _, _, err := c.c.WriteMsgUnix(b, oob, nil); err != nil {
		return fmt.Errorf("send %s message: %w", m.Kind, err)
	}
	return nil
}

// Recv returns the next message and the files beside it, which the caller
// owns. net.ErrClosed and io.EOF mean the end.
func (c *Conn) Recv() (Message, []*os.File, error) {
	b := make([]byte, maxMessage)
	oob := make([]byte, syscall.CmsgSpace(4*maxFiles))
	n, oobn, flags, _, err := c.c.ReadMsgUnix(b, oob)
	if err != nil {
		return Message{}, nil, err
	}
	if n == 0 {
		return Message{}, nil, net.ErrClosed // the other end is gone
	}
	files, err := filesOf(oob[:oobn])
	if err != nil {
		return Message{}, nil, err
	}
	var m Message
	if flags&(syscall.MSG_TRUNC|syscall.MSG_CTRUNC) != 0 {
		err = errors.New("message is cut")
	} else {
		err = cbor.Unmarshal(b[:n], &m)
	}
	if err != nil {
		CloseAll(files)
		return Message{}, nil, fmt.Errorf("receive control message: %w", err)
	}
	return m, files, nil
}

func filesOf(oob []byte) ([]*os.File, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	scms, err := syscall.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("receive descriptors: %w", err)
	}
	var files []*os.File
	for i := range scms {
		fds, err := syscall.ParseUnixRights(&scms[i])
		if err != nil {
			CloseAll(files)
			return nil, fmt.Errorf("receive descriptors: %w", err)
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return files, nil
}

// CloseAll closes files.
func CloseAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}
