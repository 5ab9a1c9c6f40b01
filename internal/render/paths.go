package render

import (
	"path"
	"regexp"
	"strings"

	"capstan.dev/capstan/internal/tree"
)

// kustomizationNames are the names kustomize looks for in a directory, from
// konfig.RecognizedKustomizationFileNames.
var kustomizationNames = []string{"kustomization.yaml", "kustomization.yml", "Kustomization"}

func isKustomizationName(name string) bool {
	for _, n := range kustomizationNames {
		if n == name {
			return true
		}
	}
	return false
}

// userAtHost is how internal/git/repospec.go in kustomize recognises a user name.
var userAtHost = regexp.MustCompile(`^[a-z][a-z0-9-]*@`)

// isRemote reports whether kustomize might take a path for something to fetch. It
// accepts more than kustomize does: repospec.go for what is cloned,
// fileloader.go (IsRemoteFile) for what is downloaded. A directory of the tree that
// is called github.com would be cloned too, so existence is no defence.
func isRemote(value string) bool {
	v := strings.ToLower(strings.TrimSpace(value))
	for strings.HasPrefix(v, "git::") {
		v = strings.TrimPrefix(v, "git::")
	}
	for _, prefix := range []string{"http:", "https:", "ssh:", "file:", "git:", "s3:", "gcs:", "oci:", "hg::", "github.com/", "github.com:"} {
		if strings.HasPrefix(v, prefix) {
			return true
		}
	}
	if userAtHost.MatchString(v) {
		return true
	}
	// With more than one line it is an inline document, which may speak of URLs.
	return !strings.ContainsAny(v, "\n\r") && (strings.Contains(v, "://") ||
		strings.Contains(v, "?ref=") || strings.Contains(v, "?version="))
}

// join resolves a path that a file in dir names; false if it leaves the tree.
func join(dir, value string) (string, bool) {
	return tree.Clean(path.Join("./", dir+"/"+value))
}
