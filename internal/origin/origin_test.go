package origin

import (
	"errors"
	"net/http"
	"net/url"
	"testing"
	"time"
)

func TestCheckKey(t *testing.T) {
	for address, plain := range map[string]bool{
		"https://cloud.example/v1": false, "http://localhost:8080": false, "http://127.0.0.1": false, "http://127.8.9.1:1": false, "http://[::1]:80/": false,
		"http://cloud.example": true, "http://192.168.1.2:8080": true, "http://localhost.example": true, "http://0.0.0.0": true, "http://127.0.0.1.example": true,
	} {
		u, err := url.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		if err := CheckKey(u); errors.Is(err, ErrPlain) != plain || (err != nil) != plain {
			t.Errorf("%s: %v, want refused: %v", address, err, plain)
		}
	}
}

func TestStay(t *testing.T) {
	request := func(address string) *http.Request {
		r, err := http.NewRequest(http.MethodGet, address, nil)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	via := []*http.Request{request("https://a.example/x")}
	for address, stays := range map[string]bool{
		"https://a.example/y": true, "http://a.example/x": false, "https://b.example/x": false, "https://a.example:444/x": false,
	} {
		if err := Stay(request(address), via); (err == nil) != stays || !stays && !errors.Is(err, ErrRedirect) {
			t.Errorf("%s: %v, want followed: %v", address, err, stays)
		}
	}
	for range 3 {
		via = append(via, via[0])
	}
	if Stay(request("https://a.example/y"), via) == nil {
		t.Error("the fourth redirection is followed")
	}
}

func TestRetryAfter(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"": 0, "3": 3 * time.Second, "-3": 0, "99999999999999999": 0, "soon": 0, "Mon, 02 Jan 2006 15:04:05 GMT": 0,
	} {
		if got := RetryAfter(http.Header{"Retry-After": {text}}); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
	later := time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)
	if got := RetryAfter(http.Header{"Retry-After": {later}}); got < 59*time.Minute || got > time.Hour {
		t.Errorf("%s: %v", later, got)
	}
}
