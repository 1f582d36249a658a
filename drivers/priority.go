package drivers

import (
	"cmp"
	"fmt"
	"slices"
)

// holder is a function that holds an output.
type holder struct {
	function string
	priority int   // 0: alone
	command  *bool // nil: none
}

// arbitrate returns the command that an output takes: that of the holder with
// the lowest priority number among those that command anything, as in BACnet's
// priority array (ASHRAE 135, clause 19.2). ok is false if nobody does: the
// line is then to take its safe value.
func arbitrate(holders []holder) (on, ok bool) {
	best := -1
	for i, h := range holders {
		if h.command != nil && (best < 0 || h.priority < holders[best].priority) {
			best = i
		}
	}
	if best < 0 {
		return false, false
	}
	return *holders[best].command, true
}

// admit says whether a function may hold a line with a priority beside the
// holders that there are. Its own hold is passed over. The error wraps ErrHeld
// and names the holder that is in the way.
func admit(line, function string, priority int, holders []holder) error {
	for _, h := range holders {
		switch {
		case h.function == function:
		case h.priority == 0:
			return fmt.Errorf("%w: line %q, held by function %q, which states no priority: remove that function, or give both a priority", ErrHeld, line, h.function)
		case priority == 0:
			return fmt.Errorf("%w: line %q, held by function %q with priority %d", ErrHeld, line, h.function, h.priority)
		case h.priority == priority:
			return fmt.Errorf("%w: line %q, held by function %q with the same priority %d", ErrHeld, line, h.function, h.priority)
		}
	}
	return nil
}

// byPriority orders holders as they count.
func byPriority(a, b holder) int { return cmp.Compare(a.priority, b.priority) }

// shown are holders as Info has them, in the order in which they count.
func shown(holders []holder) []Holder {
	all := make([]Holder, 0, len(holders))
	for _, h := range slices.SortedFunc(slices.Values(holders), byPriority) {
		s := Holder{Function: h.function, Priority: h.priority}
		if h.command != nil {
			on := *h.command
			s.Command = &on
		}
		all = append(all, s)
	}
	return all
}
