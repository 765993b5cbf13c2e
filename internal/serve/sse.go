package serve

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
)

// usage counts tokens, as the API does.
type usage struct {
	Prompt     int `json:"prompt_tokens"`
	Completion int `json:"completion_tokens"`
	Total      int `json:"total_tokens"`
}

// piece is a part of the large model's answer.
type piece struct {
	text   string
	other  map[string]json.RawMessage // further fields of a chat's delta, such as tool_calls
	finish string                     // why it ended; empty before the end
	usage  *usage
}

// reply is a whole answer of the large model.
type reply struct {
	text    string
	message map[string]json.RawMessage // of a chat
	finish  string
	usage   *usage
}

// choice is what answers of both endpoints have, streamed or not.
type choice struct {
	Delta   map[string]json.RawMessage `json:"delta"`
	Message map[string]json.RawMessage `json:"message"`
	Text    *string                    `json:"text"`
	Finish  *string                    `json:"finish_reason"`
}

type response struct {
	Choices []choice        `json:"choices"`
	Usage   *usage          `json:"usage"`
	Error   json.RawMessage `json:"error"`
}

// first is the answer's only choice.
func (r response) first() (choice, bool) {
	if len(r.Choices) == 0 {
		return choice{}, false
	}
	return r.Choices[0], true
}

// content takes the text out of a message or delta; null is none.
func content(m map[string]json.RawMessage) (string, error) {
	raw, ok := m["content"]
	if !ok {
		return "", nil
	}
	var s *string
	if err := json.Unmarshal(raw, &s); err != nil {
		return "", fmt.Errorf("%w: content is no text", errGarbage)
	}
	if s == nil {
		return "", nil
	}
	return *s, nil
}

// call asks for a whole answer.
func (u *Upstream) call(ctx context.Context, path string, b body) (out reply, tries int, err error) {
	b["stream"] = json.RawMessage("false")
	delete(b, "stream_options")
	tries, err = u.post(ctx, path, b, u.c.Whole, func(resp *http.Response) (bool, error) {
		data, err := io.ReadAll(resp.Body)
		if err != nil {
			return false, err
		}
		var r response
		if !isType(resp, "application/json") || json.Unmarshal(data, &r) != nil {
			return false, fmt.Errorf("%w: %s", errGarbage, resp.Header.Get("Content-Type"))
		}
		c, ok := r.first()
		if !ok || c.Message == nil && c.Text == nil {
			return false, fmt.Errorf("%w: no choice", errGarbage)
		}
		out = reply{message: c.Message, usage: r.Usage, finish: "stop"}
		if c.Finish != nil {
			out.finish = *c.Finish
		}
		if c.Text != nil {
			out.text = *c.Text
			return false, nil
		}
		out.text, err = content(c.Message)
		return false, err
	})
	return out, tries, err
}

// stream asks for an answer in pieces and passes each on. An error of emit ends
// the call; another try comes only while nothing was passed on. It is no failure
// of the large model and returned as it is.
func (u *Upstream) stream(ctx context.Context, path string, b body, emit func(piece) error) (tries int, err error) {
	b["stream"] = json.RawMessage("true")
	if b["stream_options"] == nil {
		b["stream_options"] = json.RawMessage(`{"include_usage":true}`)
	}
	var own error
	tries, err = u.post(ctx, path, b, u.c.FirstByte, func(resp *http.Response) (used bool, err error) {
		if !isType(resp, "text/event-stream") {
			return false, fmt.Errorf("%w: %s instead of a stream", errGarbage, resp.Header.Get("Content-Type"))
		}
		finished := false
		done, err := events(resp.Body, func(data []byte) error {
			p, some, err := parsePiece(data)
			if err != nil || !some {
				return err
			}
			finished = finished || p.finish != ""
			used = true
			if own = emit(p); own != nil {
				return errEmit
			}
			return nil
		})
		switch {
		case err != nil && !(finished && isCut(err)):
			return used, err
		case !done && !finished:
			return used, errBroken
		}
		return used, nil
	})
	if own != nil {
		return tries, own
	}
	return tries, err
}

// errEmit stops the reading of a stream whose receiver failed.
var errEmit = &Failure{Kind: failCancelled, Err: errors.New("the client is gone")}

// isCut reports whether a connection just ended, which after the last piece of an
// answer does no harm.
func isCut(err error) bool {
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF)
}

// parsePiece reads one chunk; some is false when it holds nothing to pass on.
func parsePiece(data []byte) (p piece, some bool, err error) {
	var r response
	if err := json.Unmarshal(data, &r); err != nil {
		return p, false, fmt.Errorf("%w: a chunk that is no JSON object", errGarbage)
	}
	if len(r.Error) > 0 && string(r.Error) != "null" {
		return p, false, &Failure{Kind: failServer, Status: http.StatusOK, Err: fmt.Errorf("an error within the stream%s", codeOf(r.Error))}
	}
	p.usage = r.Usage
	c, ok := r.first()
	if !ok {
		return p, p.usage != nil, nil
	}
	if c.Finish != nil {
		p.finish = *c.Finish
	}
	if c.Text != nil {
		p.text = *c.Text
	} else if p.text, err = content(c.Delta); err != nil {
		return p, false, err
	}
	for k, v := range c.Delta {
		if k == "role" || k == "content" || string(v) == "null" {
			continue
		}
		if p.other == nil {
			p.other = map[string]json.RawMessage{}
		}
		p.other[k] = v
	}
	return p, p.text != "" || p.finish != "" || p.usage != nil || p.other != nil, nil
}

// maxEvent bounds a line of a stream, and the data of an event.
const maxEvent = 1 << 20

// events reads server-sent events (WHATWG HTML, section 9.2) and calls f with
// the data of each until "[DONE]", which done reports. An event that the stream's
// end cuts off is dropped, as there. A line of no known field, which the standard
// skips, is an error: the page of a proxy is no empty answer.
func events(r io.Reader, f func(data []byte) error) (done bool, err error) {
	in := bufio.NewReaderSize(r, 16<<10)
	var data []byte
	has := false
	for first := true; ; first = false {
		line, err := eventLine(in)
		if err == io.EOF && string(bytes.TrimSpace(line)) == "data: [DONE]" {
			return true, nil // without its line feed
		}
		if err == io.EOF {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if first {
			line = bytes.TrimPrefix(line, []byte("\xef\xbb\xbf"))
		}
		if len(line) == 0 {
			if string(data) == "[DONE]" {
				return true, nil
			}
			if has {
				if err := f(data); err != nil {
					return false, err
				}
			}
			data, has = data[:0], false
			continue
		}
		field, value, _ := bytes.Cut(line, []byte(":"))
		switch string(field) {
		case "data":
			if has {
				data = append(data, '\n')
			}
			data = append(data, bytes.TrimPrefix(value, []byte(" "))...)
			has = true
			if len(data) > maxEvent {
				return false, errTooLong
			}
			if string(data) == "[DONE]" {
				return true, nil
			}
		case "", "event", "id", "retry":
		default:
			return false, fmt.Errorf("%w: a line of no known field in its stream", errGarbage)
		}
	}
}

// eventLine reads a line without its end; at the end of the stream the rest, with
// io.EOF.
func eventLine(in *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := in.ReadSlice('\n')
		if line = append(line, part...); len(line) > maxEvent {
			return nil, errTooLong
		}
		if err == bufio.ErrBufferFull {
			continue
		}
		if err != nil {
			return line, err
		}
		return bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r")), nil
	}
}
