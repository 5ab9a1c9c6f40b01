package forge_test

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"capstan.dev/capstan/internal/forge"
)

func TestRepository(t *testing.T) {
	for gitURL, want := range map[string][3]string{
		"https://gitea.example.com/acme/fleet.git":                {"https://gitea.example.com", "acme", "fleet"},
		"https://gitea.example.com/acme/fleet":                    {"https://gitea.example.com", "acme", "fleet"},
		"https://gitea.example.com/acme/fleet/":                   {"https://gitea.example.com", "acme", "fleet"},
		"http://gitea.example.com:3000/acme/fleet.git":            {"http://gitea.example.com:3000", "acme", "fleet"},
		"https://example.com/gitea/acme/fleet.git":                {"https://example.com/gitea", "acme", "fleet"},
		"https://example.com/a/b/acme/fleet.git":                  {"https://example.com/a/b", "acme", "fleet"},
		"https://user:pass@gitea.example.com/acme/fleet.git":      {"https://gitea.example.com", "acme", "fleet"},
		"https://github.com/acme/fleet.io.git":                    {"https://github.com", "acme", "fleet.io"},
		"ssh://git@gitea.example.com/acme/fleet.git":              {"https://gitea.example.com", "acme", "fleet"},
		"ssh://git@gitea.example.com:2222/acme/fleet.git":         {"https://gitea.example.com", "acme", "fleet"},
		"ssh://git@ssh.github.com:443/acme/fleet.git":             {"https://github.com", "acme", "fleet"},
		"git@github.com:acme/fleet.git":                           {"https://github.com", "acme", "fleet"},
		"github.com:acme/fleet":                                   {"https://github.com", "acme", "fleet"},
		"git@gitea.example.com:/acme/fleet.git":                   {"https://gitea.example.com", "acme", "fleet"},
		"https://[::1]:3000/acme/fleet.git":                       {"https://[::1]:3000", "acme", "fleet"},
		"ssh://git@[::1]:22/acme/fleet.git":                       {"https://[::1]", "acme", "fleet"},
		"https://gitea.example.com/acme/fleet.git?x=1":            {},
		"https://gitea.example.com/fleet.git":                     {},
		"https://gitea.example.com/":                              {},
		"https://gitea.example.com/acme/..":                       {},
		"https://gitea.example.com/acme/.git":                     {},
		"https://gitea.example.com/ac%2fme/fleet%20x":             {},
		"https://gitea.example.com//fleet":                        {},
		"file:///srv/acme/fleet.git":                              {},
		"/srv/acme/fleet.git":                                     {},
		"":                                                        {},
		"https://user:s3cr3t@gitea.example.com:port/acme/fleet":   {},
		"https://user:s3cr3t@gitea.example.com/acme/fleet#s3cr3t": {},
	} {
		base, owner, name, err := forge.Repository(gitURL)
		if got := [3]string{base, owner, name}; got != want || (err == nil) != (want[0] != "") {
			t.Errorf("%q: %q, %v; want %q", gitURL, got, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("%q has a password", err)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	good := forge.Options{Kind: forge.Gitea, URL: "https://gitea.example.com", Owner: "acme", Repository: "fleet",
		Credentials: forge.Credentials{Token: "t0ken"}}
	if _, err := forge.Open(good); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*forge.Options){
		"no forge of kind":      func(o *forge.Options) { o.Kind = "GitLab" },
		"owner":                 func(o *forge.Options) { o.Owner = "" },
		"repository":            func(o *forge.Options) { o.Repository = "a/../b" },
		"must begin with https": func(o *forge.Options) { o.URL = "ftp://gitea.example.com" },
		"begin with https":      func(o *forge.Options) { o.URL = "" },
		"names no host":         func(o *forge.Options) { o.URL = "https:///x" },
		"user or password":      func(o *forge.Options) { o.URL = "https://a:t0ken@gitea.example.com" },
		"query or fragment":     func(o *forge.Options) { o.URL = "https://gitea.example.com/?a=t0ken" },
		"there is no token":     func(o *forge.Options) { o.Credentials.Token = "" },
		"characters":            func(o *forge.Options) { o.Credentials.Token = "t0ken\nX-Other: 1" },
		"only known to GitHub":  func(o *forge.Options) { o.Credentials = forge.Credentials{AppID: 1} },
		"both a token and":      func(o *forge.Options) { o.Kind, o.Credentials.AppID = forge.GitHub, 1 },
		"numbers above 0":       func(o *forge.Options) { o.Kind, o.Credentials = forge.GitHub, forge.Credentials{AppID: 1} },
		"must be in PEM form":   func(o *forge.Options) { o.Credentials.CA = []byte("t0ken") },
		"timeout -1ns":          func(o *forge.Options) { o.Timeout = -1 },
		"private key of the Git": func(o *forge.Options) {
			o.Kind, o.Credentials = forge.GitHub, forge.Credentials{AppID: 1, InstallationID: 2, PrivateKey: []byte("t0ken")}
		},
	} {
		o := good
		change(&o)
		_, err := forge.Open(o)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "t0ken") {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestCredentialsFromSecret(t *testing.T) {
	key := string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(fakeKey())}))
	app := map[string]string{"githubAppID": "12", "githubAppInstallationID": "34\n", "githubAppPrivateKey": key}
	with := func(m map[string]string, pairs ...string) map[string]string {
		all := map[string]string{}
		for k, v := range m {
			all[k] = v
		}
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i+1] == "-" {
				delete(all, pairs[i])
			} else {
				all[pairs[i]] = pairs[i+1]
			}
		}
		return all
	}
	token := map[string]string{"token": "t0ken\n"}
	for name, tt := range map[string]struct {
		data map[string]string
		kind forge.Kind
		want forge.Credentials
		err  string
	}{
		"a token":              {token, forge.Gitea, forge.Credentials{Token: "t0ken"}, ""},
		"a token of GitHub":    {token, forge.GitHub, forge.Credentials{Token: "t0ken"}, ""},
		"an App":               {app, forge.GitHub, forge.Credentials{AppID: 12, InstallationID: 34, PrivateKey: []byte(key)}, ""},
		"nothing":              {nil, forge.Gitea, forge.Credentials{}, `needs "token"`},
		"only a certificate":   {map[string]string{"ca.crt": "t0ken"}, forge.Forgejo, forge.Credentials{}, `needs "token"`},
		"unknown":              {with(token, "password", "t0ken", "a", ""), forge.Gitea, forge.Credentials{}, `unknown key "a", "password"`},
		"both":                 {with(app, "token", "t0ken"), forge.GitHub, forge.Credentials{}, "not both"},
		"an App of Gitea":      {app, forge.Gitea, forge.Credentials{}, "only known to GitHub"},
		"half an App":          {with(app, "githubAppPrivateKey", "-"), forge.GitHub, forge.Credentials{}, `lacks "githubAppPrivateKey"`},
		"an empty token":       {with(token, "token", " \n"), forge.Gitea, forge.Credentials{}, "is empty"},
		"an id that is none":   {with(app, "githubAppID", "t0ken"), forge.GitHub, forge.Credentials{}, `"githubAppID" of the Secret is not a number`},
		"an id below":          {with(app, "githubAppInstallationID", "-5"), forge.GitHub, forge.Credentials{}, "is not a number above 0"},
		"a key that is none":   {with(app, "githubAppPrivateKey", "t0ken"), forge.GitHub, forge.Credentials{}, "private key"},
		"a bad certificate":    {with(token, "ca.crt", "t0ken"), forge.Gitea, forge.Credentials{}, "PEM"},
		"an empty certificate": {with(token, "ca.crt", ""), forge.Gitea, forge.Credentials{}, "is empty"},
		"a token of two words": {with(token, "token", "t0ken t0ken"), forge.Gitea, forge.Credentials{}, "spaces"},
	} {
		data := map[string][]byte{}
		for k, v := range tt.data {
			data[k] = []byte(v)
		}
		got, err := forge.CredentialsFromSecret(data, tt.kind)
		if diff := gocmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if (tt.err == "") != (err == nil) || err != nil && (!strings.Contains(err.Error(), tt.err) || strings.Contains(err.Error(), "t0ken")) {
			t.Errorf("%s: %v, want %q", name, err, tt.err)
		}
	}
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		if text := fmt.Sprintf(format, forge.Options{Credentials: forge.Credentials{Token: "t0ken"}}); strings.Contains(text, "t0ken") {
			t.Errorf("%s shows the token: %s", format, text)
		}
	}
}
