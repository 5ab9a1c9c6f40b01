package source

import (
	"net"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
)

type scheme string

const (
	schemeHTTP  scheme = "http"
	schemeHTTPS scheme = "https"
	schemeSSH   scheme = "ssh"
	schemeLocal scheme = "file"
)

// location is a parsed repository URL.
type location struct {
	scheme  scheme
	display string // the URL for people, without credentials
	request string // the URL for HTTP, with the user name if it has one
	user    string
	host    string // host:port, for SSH
	path    string // on the SSH server, or in the local file system
}

// scpLike matches git@host:path. A single letter before the colon would be a
// Windows drive.
var scpLike = regexp.MustCompile(`^(?:([^@/:\s]+)@)?([^@/:\s]{2,}):([^:\s][^\s]*)$`)

func parseURL(raw string) (location, error) {
	switch {
	case raw == "":
		return location{}, errorf(BadConfiguration, "the repository's URL is empty")
	case filepath.IsAbs(raw):
		return location{scheme: schemeLocal, display: raw, path: filepath.Clean(raw)}, nil
	case !strings.Contains(raw, "://"):
		m := scpLike.FindStringSubmatch(raw)
		if m == nil {
			return location{}, errorf(BadConfiguration,
				"repository URL %q: use https://, http://, ssh://, git@host:path or an absolute path", redact(raw))
		}
		return sshLocation(m[1], m[2], "", m[3], raw), nil
	}
	u, err := url.Parse(raw)
	if err != nil {
		return location{}, errorf(BadConfiguration, "repository URL %q can't be parsed", redact(raw)) // the cause quotes the URL
	}
	if _, ok := u.User.Password(); ok {
		return location{}, errorf(BadConfiguration,
			"repository URL %q holds a password, which would show wherever the URL does; put it into the Secret instead", redact(raw))
	}
	if u.RawQuery != "" || u.Fragment != "" {
		return location{}, errorf(BadConfiguration, "repository URL %q must not have a query or fragment", redact(raw))
	}
	s := scheme(strings.ToLower(u.Scheme))
	switch s {
	case schemeHTTP, schemeHTTPS, schemeSSH:
		if u.Hostname() == "" {
			return location{}, errorf(BadConfiguration, "repository URL %q names no host", redact(raw))
		}
	}
	switch s {
	case schemeHTTP, schemeHTTPS:
		return location{scheme: s, display: redact(raw), request: raw, user: u.User.Username()}, nil
	case schemeSSH:
		return sshLocation(u.User.Username(), u.Hostname(), u.Port(), u.Path, redact(raw)), nil
	case schemeLocal:
		if u.Host != "" && u.Host != "localhost" || u.Path == "" {
			return location{}, errorf(BadConfiguration, "repository URL %q must be of the form file:///path", redact(raw))
		}
		return location{scheme: s, display: raw, path: filepath.Clean(filepath.FromSlash(u.Path))}, nil
	default:
		return location{}, errorf(BadConfiguration, "repository URL %q: scheme %q is not supported; use https, http or ssh", redact(raw), u.Scheme)
	}
}

func sshLocation(user, host, port, path, display string) location {
	if user == "" {
		user = "git"
	}
	if port == "" {
		port = "22"
	}
	return location{scheme: schemeSSH, display: display, user: user, host: net.JoinHostPort(host, port), path: path}
}

// redact removes user and password from anything that looks like a URL, also
// from one that can't be parsed. The user of an SSH URL is no secret and stays.
func redact(raw string) string {
	s, rest, ok := strings.Cut(raw, "://")
	if !ok {
		return raw
	}
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	// A password may hold a slash that nobody escaped; everything up to the last
	// "@" goes then.
	at := strings.LastIndexByte(rest[:end], '@')
	if at < 0 {
		if at = strings.LastIndexByte(rest, '@'); at < 0 || !strings.Contains(rest[:at], ":") {
			return raw
		}
	}
	if user := rest[:at]; strings.EqualFold(s, "ssh") && !strings.ContainsAny(user, ":/") {
		return raw
	}
	return s + "://" + rest[at+1:]
}

// secrets returns the parts of the URL that must not show: forges accept an
// access token as the user name.
func (l location) secrets() []string {
	const shortestToken = 16 // replacing "git" in every text would garble it
	if (l.scheme == schemeHTTP || l.scheme == schemeHTTPS) && len(l.user) >= shortestToken {
		return []string{l.user}
	}
	return nil
}
