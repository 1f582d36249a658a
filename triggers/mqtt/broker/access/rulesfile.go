package access

import (
	"errors"
	"fmt"
	"regexp"

	"go.yaml.in/yaml/v3"
)

// parseRules reads the text of a rules file: a YAML list of Rule. Every fault
// is reported, with the file and the line.
func parseRules(file string, text []byte) ([]Rule, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, placed(file, err)
	}
	if len(doc.Content) == 0 {
		return nil, fmt.Errorf("rules file %s: %w", file, errors.Join(CheckRules(nil)...))
	}
	list := doc.Content[0]
	if list.Kind != yaml.SequenceNode {
		return nil, fmt.Errorf("rules file %s:%d: want a list of rules, each with user, publish and subscribe", file, list.Line)
	}
	rules := make([]Rule, len(list.Content))
	var faults []error
	fault := func(n *yaml.Node, format string, args ...any) {
		if len(faults) < maxFaults {
			faults = append(faults, fmt.Errorf("rules file %s:%d: %w", file, n.Line, fmt.Errorf(format, args...)))
		}
	}
	for i, n := range list.Content {
		if n.Kind != yaml.MappingNode {
			fault(n, "want a rule with user, publish and subscribe")
			continue
		}
		known := true
		for k := 0; k+1 < len(n.Content); k += 2 {
			switch key := n.Content[k]; key.Value {
			case "user", "publish", "subscribe":
			default:
				fault(key, "unknown key %q: known are user, publish, subscribe", key.Value)
				known = false
			}
		}
		if err := n.Decode(&rules[i]); err != nil {
			faults = append(faults, placed(file, err))
			known = false
		}
		if !known {
			continue
		}
		for _, f := range rules[i].faults() {
			fault(n, "rule %d%w", i+1, f)
		}
	}
	if len(faults) == 0 {
		for _, f := range CheckRules(rules) { // what is wrong with all of them together
			fault(list, "%w", f)
		}
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	return rules, nil
}

// faultForm is a fault in the decoder's words, its line in front.
var faultForm = regexp.MustCompile(`^(?:yaml: )?line (\d+): (.*)$`)

// placed puts the file in front of each fault of the decoder.
func placed(file string, err error) error {
	texts := []string{err.Error()}
	var types *yaml.TypeError
	if errors.As(err, &types) {
		texts = types.Errors
	}
	var faults []error
	for _, text := range texts[:min(len(texts), maxFaults)] {
		if m := faultForm.FindStringSubmatch(text); m != nil {
			faults = append(faults, fmt.Errorf("rules file %s:%s: %s", file, m[1], m[2]))
			continue
		}
		faults = append(faults, fmt.Errorf("rules file %s: %s", file, text))
	}
	return errors.Join(faults...)
}
