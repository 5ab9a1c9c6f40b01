package forge

import "errors"

// Open checks the options and returns the repository; it makes no request.
func Open(o Options) (Forge, error) { return nil, errors.New("not built yet") }

// Repository returns the forge's URL and the owner and name of the repository that a Git
// URL (https, http, ssh, or host:path) is of.
func Repository(gitURL string) (base, owner, name string, err error) {
	return "", "", "", errors.New("not built yet")
}
