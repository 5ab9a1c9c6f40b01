package host

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestPKIIsKeptWhileItIsGood(t *testing.T) {
	now := time.Now()
	for name, test := range map[string]struct {
		spoil  func(t *testing.T, dir string)
		later  time.Duration
		newCA  bool
		newKey bool // for service accounts
	}{
		"good":                       {},
		"years later":                {later: validity / 2},
		"near its end":               {later: validity - renewal/2, newCA: true},
		"after its end":              {later: 2 * validity, newCA: true},
		"clock put back":             {later: -24 * time.Hour * 365, newCA: true},
		"key gone":                   {spoil: remove("etcd.key"), newCA: true},
		"certificate gone":           {spoil: remove("admin.crt"), newCA: true},
		"authority gone":             {spoil: remove("ca.crt"), newCA: true},
		"certificate broken":         {spoil: damage("serving.crt"), newCA: true},
		"authority broken":           {spoil: damage("ca.crt"), newCA: true},
		"service account key gone":   {spoil: remove("service-account.key"), newKey: true},
		"service account key broken": {spoil: damage("service-account.key"), newKey: true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "pki")
			old, err := loadPKI(dir, now)
			if err != nil {
				t.Fatal(err)
			}
			oldKey := mustRead(t, old.serviceAccountKey)
			if test.spoil != nil {
				test.spoil(t, dir)
			}
			p, err := loadPKI(dir, now.Add(test.later))
			if err != nil {
				t.Fatal(err)
			}
			if isNew := string(p.caPEM) != string(old.caPEM); isNew != test.newCA {
				t.Errorf("the authority is new: %v", isNew)
			}
			if isNew := mustRead(t, p.serviceAccountKey) != oldKey; isNew != test.newKey {
				t.Errorf("the key for service accounts is new: %v", isNew)
			}
			if err := p.read(now.Add(test.later)); err != nil {
				t.Errorf("what was loaded is no good: %v", err)
			}
			if mustRead(t, p.admin.certFile) != string(p.admin.certPEM) {
				t.Error("the files hold another certificate than memory")
			}
		})
	}
}

func remove(name string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
}

func damage(name string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("scratched"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func mustRead(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}
