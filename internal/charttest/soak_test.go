package charttest

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
)

// What a run with one permission less is told by.
const (
	soakVariable    = "CAPSTAN_SOAK"
	withoutVariable = "CAPSTAN_WITHOUT"
	binaryVariable  = "CAPSTAN_BINARY"
)

// unstable is what differs from run to run in the text of a permission.
var unstable = regexp.MustCompile(` in \S+$`)

// grantWithout gives the agent all that the chart does, but one.
func (i *installation) grantWithout(without string) {
	i.Helper()
	account := pick(i.all, "ServiceAccount")[0]
	subject := []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: account.GetNamespace(), Name: account.GetName()}}
	left := 0
	for _, a := range atoms(i.T, i.all) {
		if unstable.ReplaceAllString(a.String(), "") == without {
			left++
			continue
		}
		grant(i.T, a, subject)
	}
	if left == 0 {
		i.Fatalf("the chart does not grant %q", without)
	}
}

// TestEveryPermission takes each permission away in turn and has the agent work without
// it: each time something is refused that it tried. It takes an hour: -timeout 2h.
func TestEveryPermission(t *testing.T) {
	if os.Getenv(soakVariable) == "" || os.Getenv(withoutVariable) != "" {
		t.Skip(soakVariable + "=1 runs it")
	}
	for _, a := range atoms(t, render(t, "ns", "{rbac: {impersonate: [{namespace: team, names: [deployer]}]}}")) {
		without := unstable.ReplaceAllString(a.String(), "")
		t.Run(without, func(t *testing.T) {
			c := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^TestPermissions$", "-test.count", "1")
			c.Env = append(os.Environ(), withoutVariable+"="+without, binaryVariable+"="+binary)
			out, err := c.CombinedOutput()
			if err == nil {
				t.Fatalf("nothing is missed without it\n%s", out)
			}
			refused := false
			for line := range strings.Lines(string(out)) {
				refused = refused || strings.Contains(line, "forbidden")
			}
			if !refused {
				t.Errorf("nothing was refused, but it failed: %v\n%s", err, out)
			}
		})
	}
}
