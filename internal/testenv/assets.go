package testenv

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// assets are the binaries.
type assets struct{ apiServer, etcd string }

// Root returns the root of the repository: the folder of Capstan's go.mod at or
// above the working directory.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("testenv: %w", err)
	}
	for {
		mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && bytes.HasPrefix(mod, []byte("module capstan.dev/capstan\n")) {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("testenv: not inside Capstan's repository: no go.mod of module capstan.dev/capstan at or above the working directory")
		}
		dir = parent
	}
}

// findAssets finds the binaries.
func findAssets(root string) (assets, error) {
	dir := os.Getenv("KUBEBUILDER_ASSETS")
	from := "KUBEBUILDER_ASSETS=" + dir
	if dir == "" {
		dir, from = filepath.Join(root, "bin"), "bin/"
	}
	a := assets{apiServer: filepath.Join(dir, "kube-apiserver"), etcd: filepath.Join(dir, "etcd")}
	for _, path := range []string{a.apiServer, a.etcd} {
		if _, err := os.Stat(path); err != nil {
			return assets{}, fmt.Errorf("testenv: no %s in %s: run `make envtest`, or set KUBEBUILDER_ASSETS to a folder with kube-apiserver and etcd (%w)",
				filepath.Base(path), from, err)
		}
	}
	return a, nil
}

// crdFolders lists the folders with CRDs: Capstan's, Cluster API's from its
// module at the version that dev/go.mod pins, and the providers'.
func crdFolders(root string) ([]string, error) {
	dev := filepath.Join(root, "dev")
	capi, err := moduleDir(dev, "sigs.k8s.io/cluster-api")
	if err != nil {
		return nil, err
	}
	return []string{
		filepath.Join(root, "charts", "capstan", "files", "crds"),
		filepath.Join(capi, "core", "config", "crd", "bases"),
		filepath.Join(capi, "controlplane", "kubeadm", "config", "crd", "bases"),
		filepath.Join(capi, "bootstrap", "kubeadm", "config", "crd", "bases"),
		filepath.Join(dev, "crds"),
	}, nil
}

// moduleDir returns the folder of a module that the module in dir requires, and
// downloads it if need be.
func moduleDir(dir, module string) (string, error) {
	for _, download := range []bool{false, true} {
		if download {
			if _, err := goCommand(dir, "mod", "download", module); err != nil {
				return "", err
			}
		}
		out, err := goCommand(dir, "list", "-m", "-f", "{{.Dir}}", module)
		if err != nil {
			return "", err
		}
		if out != "" {
			return out, nil
		}
	}
	return "", fmt.Errorf("testenv: module %s has no folder, even after `go mod download`", module)
}

func goCommand(dir string, args ...string) (string, error) {
	cmd := exec.Command("go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=mod")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("testenv: go %s in %s: %w\n%s", strings.Join(args, " "), filepath.Base(dir), err, stderr.String())
	}
	return strings.TrimSpace(string(out)), nil
}
