package gpio

import (
	"encoding/json"
	"strconv"
	"time"

	"github.com/edgefn/edgefn/drivers"
	"github.com/edgefn/edgefn/functions"
)

// data is an event's data.
type data struct {
	On    bool               `json:"on"`
	Edge  functions.EdgeKind `json:"edge"`  // rising or falling
	Level int                `json:"level"` // of the voltage: 0 or 1
	// LineSeq is the edge's number on the line since Opened.
	LineSeq uint64 `json:"line_seq"`
	// Lost is how many edges were lost since the event before; null: that cannot
	// be seen on this line.
	Lost      *uint64 `json:"lost"`
	Coalesced uint64  `json:"coalesced"` // earlier edges that it stands for
	TimeNS    int64   `json:"time_ns"`   // CLOCK_MONOTONIC of the kernel
	Opened    string  `json:"opened"`    // RFC 3339
}

// Event makes the event of an edge. node and line are names: the node's, and
// the device's in its config. Its id is the same for all functions that listen
// to the line.
func Event(node, line string, e drivers.Edge) functions.Event {
	d := data{
		On: e.On, Edge: functions.EdgeFalling, LineSeq: e.Seq, Lost: &e.Lost, Coalesced: e.Coalesced,
		TimeNS: e.Kernel.Nanoseconds(), Opened: e.Opened.UTC().Format(time.RFC3339Nano),
	}
	if e.On {
		d.Edge = functions.EdgeRising
	}
	if e.High {
		d.Level = 1
	}
	if e.Blind && e.Lost == 0 {
		d.Lost = nil
	}
	text, err := json.Marshal(d)
	if err != nil {
		panic(err) // a struct of numbers and texts
	}
	return functions.Event{
		ID:              line + "-" + strconv.FormatInt(e.Opened.UnixNano(), 10) + "-" + strconv.FormatUint(e.Seq, 10),
		Type:            functions.TypeEdge,
		Source:          "gpio://" + node,
		Subject:         line,
		Time:            e.Time,
		DataContentType: "application/json",
		Data:            text,
	}
}
