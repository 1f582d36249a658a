package execshim

import (
	"net"
	"os"
	"time"

	"github.com/edgefn/edgefn/functions/wire"
)

// ctlTimeout bounds one exchange with an edgefn-ctl, which has read what it
// sends before it connects.
const ctlTimeout = 10 * time.Second

// callLimit bounds what an edgefn-ctl may send, in bytes: more than the node
// takes, so that the answer says how much that is. The cell's memory bounds it
// too.
const callLimit = 64 << 20

// door is the socket at which edgefn-ctl calls. Callers are served one at a
// time; more wait in the kernel's queue.
type door struct {
	l    *net.UnixListener
	n    *node
	done chan struct{}
}

func openDoor(path string, n *node) (*door, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	d := &door{l: l, n: n, done: make(chan struct{})}
	go d.serve()
	return d, nil
}

func (d *door) close() {
	_ = d.l.Close()
	<-d.done
}

func (d *door) serve() {
	defer close(d.done)
	for {
		c, err := d.l.Accept()
		if err != nil {
			return
		}
		_ = c.SetDeadline(time.Now().Add(ctlTimeout))
		d.answer(wire.NewConn(c, callLimit))
		_ = c.Close()
	}
}

// answer passes one call of an edgefn-ctl on to the node, and the answer back.
func (d *door) answer(c *wire.Conn) {
	f, err := c.Read()
	if err == nil {
		switch f.Kind {
		case wire.KindLog:
			if err = d.n.write(wire.KindLog, 0, f.Body); err == nil {
				_ = c.Write(wire.KindOK, f.ID, wire.Reply{})
				return
			}
		case wire.KindGet, wire.KindList, wire.KindPut, wire.KindDelete, wire.KindPublish, wire.KindInvoke,
			wire.KindSetLine, wire.KindPulseLine, wire.KindReleaseLine, wire.KindReadLine, wire.KindReadSensor:
			var call wire.Call
			if err = f.Into(&call); err != nil {
				break // it would end the instance if it came to the node
			}
			var answer wire.Frame
			if answer, err = d.n.call(f.Kind, call); err == nil {
				_ = c.Write(answer.Kind, f.ID, answer.Body)
				return
			}
		case wire.KindFailure:
			var asked wire.Failure
			if err = f.Into(&asked); err == nil {
				err = d.n.ask(asked)
			}
			if err == nil {
				_ = c.Write(wire.KindOK, f.ID, wire.Reply{})
				return
			}
		case wire.KindHello, wire.KindEvent, wire.KindResult, wire.KindOK, wire.KindError:
			fallthrough
		default:
			err = os.ErrInvalid
		}
	}
	_ = c.Write(wire.KindError, f.ID, wire.Reply{Message: err.Error()})
}
