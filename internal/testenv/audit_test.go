package testenv

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A request belongs to the part of the log in which it arrived. One that is answered
// after a mark was sent before it if its arrival is not there: others see a write before
// the answer to it is in the log.
func TestRequestsSinceMark(t *testing.T) {
	line := func(id, stage, verb string) string {
		return fmt.Sprintf(`{"auditID":%q,"stage":%q,"requestURI":"/api/v1/configmaps","verb":%q,`+
			`"user":{"username":"agent"},"objectRef":{"resource":"configmaps","name":%q},"responseStatus":{"code":200}}`+"\n", id, stage, verb, id)
	}
	received := func(id, verb string) string { return line(id, "RequestReceived", verb) }
	complete := func(id, verb string) string { return line(id, "ResponseComplete", verb) }
	for _, test := range []struct {
		name string
		log  string
		want []string
		open int
	}{
		{name: "whole", log: received("a", "patch") + complete("a", "patch"), want: []string{"patch configmaps a: 200"}},
		{name: "answered after the mark", log: complete("before", "patch") + received("a", "get") + complete("a", "get"),
			want: []string{"get configmaps a: 200"}},
		{name: "not answered yet", log: received("a", "patch") + received("b", "get") + complete("b", "get"),
			want: []string{"get configmaps b: 200"}, open: 1},
		{name: "panic", log: received("a", "patch") + line("a", "Panic", "patch"), want: []string{"patch configmaps a: 200"}},
		{name: "watch that goes on", log: received("a", "watch")},
		{name: "watch that ended", log: received("a", "watch") + complete("a", "watch"), want: []string{"watch configmaps a: 200"}},
		{name: "unfinished line", log: received("a", "patch") + strings.TrimSpace(complete("a", "patch")), open: 1},
		{name: "somebody else", log: strings.ReplaceAll(received("a", "patch")+complete("a", "patch"), "agent", "other")},
	} {
		t.Run(test.name, func(t *testing.T) {
			requests, open, err := requestsOf(strings.NewReader(test.log), "agent")
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, r := range requests {
				got = append(got, r.String())
			}
			if diff := cmp.Diff(test.want, got); diff != "" || open != test.open {
				t.Errorf("%d open, want %d; requests (-want +got):\n%s", open, test.open, diff)
			}
		})
	}
}
