package edgefn

import (
	"encoding/json"
	"fmt"
	"time"
)

// Event is something that happened, with the attributes of CloudEvents 1.0.
type Event struct {
	ID              string            // unique within Source
	Type            string            // such as "edgefn.mqtt.message"
	Source          string            // where it happened, such as "mqtt://local"
	Subject         string            // what it is about: the MQTT topic, the line, the path
	Time            time.Time         // when it happened; zero if the source has no clock
	DataContentType string            // media type of Data; empty if it is not known
	Expires         time.Time         // when it is of no more use to its sender; zero: never
	Extensions      map[string]string // the attributes beside these, such as "mqttqos"
	Data            []byte            // the payload; empty if there is none
}

// JSON decodes the data into v as json.Unmarshal does.
func (e Event) JSON(v any) error {
	if err := json.Unmarshal(e.Data, v); err != nil {
		return fmt.Errorf("event data is not the JSON that is expected: %w", err)
	}
	return nil
}

// Text returns the data as text.
func (e Event) Text() string { return string(e.Data) }

// eventOf reads the map of an event frame. What is of another type than the
// wire says is left at its zero value.
func eventOf(m map[string]any) Event {
	var e Event
	for k, v := range m {
		if b, ok := v.([]byte); ok && k == "data" {
			e.Data = b
			continue
		}
		s, ok := v.(string)
		if !ok {
			continue
		}
		switch k {
		case "specversion":
		case "id":
			e.ID = s
		case "type":
			e.Type = s
		case "source":
			e.Source = s
		case "subject":
			e.Subject = s
		case "datacontenttype":
			e.DataContentType = s
		case "time":
			e.Time, _ = time.Parse(time.RFC3339Nano, s) // zero if it cannot be read, as if it had none
		case "expirytime":
			e.Expires, _ = time.Parse(time.RFC3339Nano, s)
		default:
			if e.Extensions == nil {
				e.Extensions = map[string]string{}
			}
			e.Extensions[k] = s
		}
	}
	return e
}

// payload returns v as it is sent and its media type. nil is nil bytes.
func payload(v any, what string) (b []byte, mediaType string, err error) {
	switch v := v.(type) {
	case nil:
		return nil, "", nil
	case []byte:
		return v, "application/octet-stream", nil
	case json.RawMessage:
		return v, "application/json", nil
	case string:
		return append([]byte{}, v...), "text/plain; charset=utf-8", nil
	}
	b, err = json.Marshal(v)
	if err != nil {
		return nil, "", fmt.Errorf("%s of type %T cannot be sent: %w; give []byte, string, or what JSON can hold", what, v, err)
	}
	return b, "application/json", nil
}
