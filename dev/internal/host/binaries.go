package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// binaries are what is run, with the versions that they say they are.
type binaries struct {
	apiServer, etcd, controllerManager string
	kubernetes, etcdVersion            string
}

var (
	kubernetesVersion = regexp.MustCompile(`(?m)^Kubernetes (v\S+)`)
	etcdVersion       = regexp.MustCompile(`(?m)^etcd Version: (\S+)`)
)

func findBinaries(ctx context.Context, dirs []string) (b binaries, err error) {
	for name, path := range map[string]*string{
		"kube-apiserver": &b.apiServer, "etcd": &b.etcd, "kube-controller-manager": &b.controllerManager,
	} {
		found, findErr := findBinary(name, dirs)
		*path, err = found, errors.Join(err, findErr)
	}
	if err != nil {
		return binaries{}, err
	}
	if b.kubernetes, err = askVersion(ctx, b.apiServer, kubernetesVersion); err != nil {
		return binaries{}, err
	}
	if b.etcdVersion, err = askVersion(ctx, b.etcd, etcdVersion); err != nil {
		return binaries{}, err
	}
	b.etcdVersion = "v" + b.etcdVersion
	return b, nil
}

func findBinary(name string, dirs []string) (string, error) {
	for _, dir := range dirs {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return filepath.Abs(path)
		}
	}
	return "", fmt.Errorf("there is no program %s in %s; run `make devcluster` in Capstan's repository, which builds it, "+
		"or set KUBEBUILDER_ASSETS to a folder that has it", name, strings.Join(dirs, " or "))
}

// askVersion also finds out whether the binary runs on this machine at all.
func askVersion(ctx context.Context, path string, version *regexp.Regexp) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "--version")
	cmd.Env = []string{}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s --version: %w: %s", path, err, out)
	}
	match := version.FindSubmatch(out)
	if match == nil {
		return "", fmt.Errorf("%s --version says %q, which is no version we know", path, out)
	}
	return string(match[1]), nil
}
