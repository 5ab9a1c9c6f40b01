package forge

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
)

// githubHost is where GitHub is seen by people.
const githubHost = "github.com"

// name is what owners and repositories are called on all forges: they become parts of paths.
var name = regexp.MustCompile(`^[A-Za-z0-9_.-]+$`)

func checkName(what, s string) error {
	if !name.MatchString(s) || s == "." || s == ".." {
		return fmt.Errorf("the %s %q is not a name: letters, digits, '-', '_' and '.' are allowed", what, cut(line(s), 100))
	}
	return nil
}

// scpLike is Git's short form of an ssh URL: user@host:path.
var scpLike = regexp.MustCompile(`^(?:[^@/:]*@)?([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]):([^/].*|/.*)$`)

// Repository returns the forge's URL and the owner and name of the repository that a Git
// URL (https, http, ssh, or user@host:path) is of. An ssh URL does not say where the web
// pages are; https on the same host is assumed.
func Repository(gitURL string) (base, owner, name string, err error) {
	var scheme, host, path string
	if m := scpLike.FindStringSubmatch(gitURL); m != nil && !strings.Contains(gitURL, "://") {
		scheme, host, path = "ssh", m[1], m[2]
	} else {
		u, err := url.Parse(gitURL)
		switch {
		case err != nil:
			// The error of url.Parse repeats the URL, with the password that may be in it.
			return "", "", "", errors.New("the Git URL can't be read: give one like https://host/owner/repository.git")
		case u.RawQuery != "" || u.Fragment != "":
			return "", "", "", errors.New("the Git URL has a query or fragment, which says nothing about a repository: remove it")
		}
		scheme, host, path = u.Scheme, u.Host, u.Path
		if scheme == "ssh" {
			host = strings.TrimSuffix(u.Host, ":"+u.Port())
		}
	}
	if host == "" || (scheme != "https" && scheme != "http" && scheme != "ssh") {
		return "", "", "", errors.New("the Git URL is not of a forge: give one like https://host/owner/repository.git or git@host:owner/repository.git")
	}
	if host == "ssh."+githubHost { // GitHub's ssh on port 443
		host = githubHost
	}
	segments := strings.Split(strings.Trim(path, "/"), "/")
	if len(segments) < 2 {
		return "", "", "", errors.New("the path of the Git URL does not name an owner and a repository: give one like https://host/owner/repository.git")
	}
	last := len(segments) - 1
	segments[last] = strings.TrimSuffix(segments[last], ".git")
	for _, s := range segments {
		if err := checkName("part of the Git URL's path", s); err != nil {
			return "", "", "", err
		}
	}
	if scheme == "ssh" {
		scheme = "https"
	}
	base = strings.Join(append([]string{scheme + "://" + host}, segments[:last-1]...), "/")
	return base, segments[last-1], segments[last], nil
}

// parseBase reads the URL of a forge.
func parseBase(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Opaque != "":
		return nil, errors.New("the forge's URL can't be read: give one like https://git.example.com")
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, errors.New("the forge's URL must begin with https:// or http://")
	case u.Host == "":
		return nil, errors.New("the forge's URL names no host: give one like https://git.example.com")
	case u.User != nil:
		return nil, errors.New("the forge's URL has a user or password: put a token into the Secret instead")
	case u.RawQuery != "" || u.Fragment != "" || u.ForceQuery:
		return nil, errors.New("the forge's URL has a query or fragment: remove it")
	}
	u.Path = strings.TrimRight(u.Path, "/")
	u.RawPath = ""
	u.Host = strings.ToLower(u.Host)
	return u, nil
}

// githubAPI returns where the API is of the GitHub that people see at s: it ends with a "/".
func githubAPI(s string) (*url.URL, error) {
	if s == "" {
		s = "https://" + githubHost
	}
	u, err := parseBase(s)
	if err != nil {
		return nil, err
	}
	switch host := u.Host; {
	case host == githubHost || host == "www."+githubHost || host == "api."+githubHost:
		u = &url.URL{Scheme: "https", Host: "api." + githubHost}
	case strings.HasSuffix(host, ".ghe.com"): // Enterprise Cloud with data residency
		u = &url.URL{Scheme: "https", Host: "api." + strings.TrimPrefix(host, "api.")}
	default: // Enterprise Server
		u.Path = strings.TrimSuffix(u.Path, "/api/v3") + "/api/v3"
	}
	u.Path += "/"
	return u, nil
}
