package dev

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/go-logr/logr"

	"capstan.dev/capstan/dev/internal/host"
	"capstan.dev/capstan/dev/internal/workload"
)

// newCloud listens for the workload clusters where they were last time: their kubeconfigs say so, in Secrets
// and in files that people have made of them.
func newCloud(dir string, log logr.Logger) (*workload.Cloud, error) {
	file := filepath.Join(dir, "workload-address")
	content, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the address of the workload clusters: %w", err)
	}
	address := strings.TrimSpace(string(content))
	if _, _, err := net.SplitHostPort(address); address != "" && err != nil {
		return nil, fmt.Errorf("%s holds no address (%w); remove it; kubeconfigs of workload clusters have to be exported anew then", file, err)
	}
	cloud, err := workload.New(workload.Options{Address: address, Log: log})
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("port %s is taken (needed for the API servers of the workload clusters of %s, whose kubeconfigs name it): "+
			"stop what uses it, or remove %s and export these kubeconfigs anew: %w", address, dir, file, err)
	}
	return cloud, err
}

// keepAddress remembers where the workload clusters are.
func keepAddress(dir string, cloud *workload.Cloud) error {
	return host.WriteFile(filepath.Join(dir, "workload-address"), []byte(cloud.Address()+"\n"))
}
