package host_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-logr/logr/testr"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"capstan.dev/capstan/dev/internal/host"
)

const bin = "../../../bin" // relative, as a person might say it

// binDirs is where `make` finds the binaries, too.
func binDirs() []string {
	if assets := os.Getenv("KUBEBUILDER_ASSETS"); assets != "" {
		return []string{assets, bin}
	}
	return []string{bin}
}

func options(t *testing.T, dir string) host.Options {
	return host.Options{Dir: dir, BinDirs: binDirs(), ClusterAPI: "v1.14.2", Log: testr.New(t)}
}

// start starts a Host and stops it at the end of the test at the latest.
func start(t *testing.T, opts host.Options) *host.Host {
	t.Helper()
	h, err := host.Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Stop(context.Background()); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	return h
}

func clientFor(t *testing.T, config *rest.Config) *kubernetes.Clientset {
	t.Helper()
	c, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// expectError starts with opts and expects that to fail with all of the texts.
func expectError(t *testing.T, opts host.Options, want ...string) {
	t.Helper()
	h, err := host.Start(t.Context(), opts)
	if err == nil {
		_ = h.Stop(context.Background())
		t.Fatalf("Start succeeded, and should have failed with %q", want)
	}
	for _, text := range want {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("the error lacks %q: %v", text, err)
		}
	}
}

// TestLife follows one folder through starts, stops and a crash.
func TestLife(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "not", "there")
	opts := options(t, dir)
	var steps []string
	opts.Progress = func(step string) { steps = append(steps, strings.Fields(step)[0]) }
	opts.Install = func(ctx context.Context, config *rest.Config) error {
		steps = append(steps, "install")
		_, err := clientFor(t, config).CoreV1().Namespaces().Get(ctx, "default", metav1.GetOptions{})
		return err
	}
	h := start(t, opts)
	if diff := cmp.Diff([]string{"etcd", "kube-apiserver", "install", "kube-controller-manager"}, steps); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
	address := h.RESTConfig().Host
	c := clientFor(t, h.RESTConfig())
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "kept", Namespace: "default"}}
	if _, err := c.CoreV1().ConfigMaps("default").Create(t.Context(), cm, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	expectControllers(t, c)
	expectPrivate(t, dir)

	version, err := c.Discovery().ServerVersion()
	if err != nil {
		t.Fatal(err)
	}
	if got := h.Versions().Kubernetes; got != version.GitVersion {
		t.Errorf("version %s, and the API server says %s", got, version.GitVersion)
	}

	var inUse *host.InUseError
	_, err = host.Start(t.Context(), options(t, dir))
	if !errors.As(err, &inUse) || inUse.PID != os.Getpid() {
		t.Errorf("the error of a second start is no InUseError with our process id: %v", err)
	}
	if pid, used, err := host.User(dir); pid != os.Getpid() || !used || err != nil {
		t.Errorf("User: %d, %v and %v, not our process id", pid, used, err)
	}
	if err := host.Wipe(t.Context(), dir); !errors.As(err, &inUse) {
		t.Errorf("Wipe of a folder in use: %v", err)
	}

	before := children(t)
	if len(before) != 3 {
		t.Errorf("%d children, not 3: %v", len(before), before)
	}
	if err := h.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := children(t); len(after) != 0 {
		t.Errorf("left after Stop: %v", after)
	}
	select {
	case <-h.Done():
	default:
		t.Error("Done is open after Stop")
	}
	if err := h.Err(); err != nil {
		t.Errorf("Err after Stop: %v", err)
	}

	kubeconfig := read(t, filepath.Join(dir, "kubeconfig"))
	h = start(t, options(t, dir))
	if got := h.RESTConfig().Host; got != address {
		t.Errorf("the second start is at %s, and the first was at %s", got, address)
	}
	if !bytes.Equal(kubeconfig, read(t, h.Kubeconfig())) {
		t.Error("the kubeconfig is another one after a second start")
	}
	fromFile, err := clientcmd.BuildConfigFromFlags("", h.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := clientFor(t, fromFile).CoreV1().ConfigMaps("default").Get(t.Context(), "kept", metav1.GetOptions{}); err != nil {
		t.Errorf("not kept: %v", err)
	}

	crash(t, h, "etcd")
	if err := h.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if h.Err() == nil {
		t.Error("Stop made Err forget why the Host was broken")
	}

	if pid, used, err := host.User(dir); used || err != nil {
		t.Errorf("User: %d, %v and %v, not nobody", pid, used, err)
	}
	if err := host.Wipe(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder is there after Wipe: %v", err)
	}
}

// expectControllers deletes an owner and a namespace, and waits until the controllers have done
// their part.
func expectControllers(t *testing.T, c *kubernetes.Clientset) {
	t.Helper()
	ctx := t.Context()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "goes"}}
	if _, err := c.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	owner, err := c.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "owner"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	owned := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "owned", OwnerReferences: []metav1.OwnerReference{
		{APIVersion: "v1", Kind: "ConfigMap", Name: owner.Name, UID: owner.UID}}}}
	if _, err := c.CoreV1().Secrets("default").Create(ctx, owned, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := c.CoreV1().ConfigMaps("default").Delete(ctx, owner.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := c.CoreV1().Namespaces().Delete(ctx, ns.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for what, get := range map[string]func() error{
		"the owned Secret": func() error {
			_, err := c.CoreV1().Secrets("default").Get(ctx, owned.Name, metav1.GetOptions{})
			return err
		},
		"the Namespace": func() error {
			_, err := c.CoreV1().Namespaces().Get(ctx, ns.Name, metav1.GetOptions{})
			return err
		},
	} {
		eventually(t, what+" to go", func() error {
			if err := get(); !apierrors.IsNotFound(err) {
				return fmt.Errorf("it is there (%w)", err)
			}
			return nil
		})
	}
}

// crash kills a child and expects the Host to tell.
func crash(t *testing.T, h *host.Host, name string) {
	t.Helper()
	pid := 0
	for child, command := range children(t) {
		if filepath.Base(command) == name {
			pid = child
		}
	}
	if pid == 0 {
		t.Fatalf("no child %s", name)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-h.Done()
	log := bytes.Split(bytes.TrimSpace(read(t, filepath.Join(h.Dir(), "logs", name+".log"))), []byte("\n"))
	for _, want := range []string{name, "signal: killed", string(log[len(log)-1])} {
		if err := h.Err(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Err lacks %q: %v", want, err)
		}
	}
}

// children returns the commands of our children that run.
func children(t *testing.T) map[int]string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil || len(files) == 0 {
		t.Skip("no /proc to look for children in")
	}
	found := map[int]string{}
	for _, file := range files {
		stat, err := os.ReadFile(file)
		if err != nil {
			continue // gone
		}
		_, rest, _ := strings.Cut(string(stat), ") ")
		fields := strings.Fields(rest)
		if len(fields) < 2 || fields[1] != strconv.Itoa(os.Getpid()) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			t.Fatal(err)
		}
		command, err := os.ReadFile(filepath.Join(filepath.Dir(file), "cmdline"))
		if err != nil {
			continue
		}
		name, _, _ := strings.Cut(string(command), "\x00")
		found[pid] = name
	}
	return found
}

// expectPrivate checks that nobody else can read anything.
func expectPrivate(t *testing.T, dir string) {
	t.Helper()
	info, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o700 {
		t.Errorf("%s has mode %v", dir, info.Mode())
	}
	for _, name := range []string{"kubeconfig", "state.json", "pki/admin.key", "pki/kube-controller-manager.kubeconfig", "logs/etcd.log"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
		} else if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", name, info.Mode())
		}
	}
}

// TestInstallFails checks that a failed start leaves nothing behind.
func TestInstallFails(t *testing.T) {
	opts := options(t, t.TempDir())
	opts.Install = func(context.Context, *rest.Config) error { return errors.New("no such CRD") }
	expectError(t, opts, "no such CRD")
	if left := children(t); len(left) != 0 {
		t.Errorf("left after a failed start: %v", left)
	}
	start(t, options(t, opts.Dir)) // and the folder is free again
}

// TestWire checks that a cut wire cuts clients and nothing else.
func TestWire(t *testing.T) {
	h := start(t, options(t, t.TempDir()))
	c := clientFor(t, h.RESTConfig())
	if err := h.Wire().SetDown(true); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Discovery().ServerVersion(); err == nil {
		t.Error("the API server answers over a cut wire")
	}
	if err := h.Wire().SetDown(false); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Discovery().ServerVersion(); err != nil {
		t.Error(err)
	}
	if err := h.Err(); err != nil {
		t.Error(err)
	}
}

func TestPortTaken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	for name, test := range map[string]struct {
		kept, asked int
	}{
		"asked for": {asked: port},
		"kept":      {kept: port},
	} {
		t.Run(name, func(t *testing.T) {
			opts := options(t, t.TempDir())
			opts.Port = test.asked
			if test.kept != 0 {
				writeState(t, opts, func(s map[string]any) { s["port"] = test.kept })
			}
			expectError(t, opts, l.Addr().String(), "taken", "--port")
		})
	}
}

func TestOtherVersion(t *testing.T) {
	for name, test := range map[string]struct {
		key  string
		was  any
		want string
	}{
		"Cluster API": {"clusterAPI", "v1.13.0", "Cluster API v1.13.0"},
		"Kubernetes":  {"kubernetes", "v1.35.1", "Kubernetes v1.35.1"},
		"etcd":        {"etcd", "v3.5.0", "etcd v3.5.0"},
		"format":      {"format", 99, "format 99"},
	} {
		t.Run(name, func(t *testing.T) {
			opts := options(t, t.TempDir())
			writeState(t, opts, func(s map[string]any) { s[test.key] = test.was })
			expectError(t, opts, test.want, "state.json", "devcluster down --wipe --dir "+opts.Dir)
		})
	}
}

func TestDamagedState(t *testing.T) {
	for name, content := range map[string]string{
		"no JSON": "not JSON",
		"empty":   "",
		"half":    `{"format": 1, "clu`,
		"other":   `{"format": 1, "port": -5}`,
		"strange": `{}`,
	} {
		t.Run(name, func(t *testing.T) {
			opts := options(t, t.TempDir())
			if err := host.OpenDir(opts.Dir); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(opts.Dir, "state.json"), content)
			expectError(t, opts, "state.json", "damaged", "devcluster down --wipe --dir "+opts.Dir)
		})
	}
	t.Run("gone", func(t *testing.T) {
		opts := options(t, t.TempDir())
		if err := host.OpenDir(opts.Dir); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(filepath.Join(opts.Dir, "etcd"), 0o700); err != nil {
			t.Fatal(err)
		}
		expectError(t, opts, "state.json is gone", "devcluster down --wipe --dir "+opts.Dir)
	})
	t.Run("data", func(t *testing.T) {
		opts := options(t, t.TempDir())
		writeState(t, opts, func(map[string]any) {})
		snap := filepath.Join(opts.Dir, "etcd", "member", "snap")
		if err := os.MkdirAll(snap, 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(snap, "db"), strings.Repeat("no database ", 4096))
		expectError(t, opts, "etcd ended unexpectedly", "damaged", "devcluster down --wipe --dir "+opts.Dir)
	})
}

func TestBinaries(t *testing.T) {
	// complete returns a folder with links to the real binaries.
	complete := func(t *testing.T) string {
		t.Helper()
		dir := t.TempDir()
		for _, name := range []string{"etcd", "kube-apiserver", "kube-controller-manager"} {
			for _, from := range binDirs() {
				path, err := filepath.Abs(filepath.Join(from, name))
				if err != nil {
					t.Fatal(err)
				}
				if _, err := os.Stat(path); err == nil {
					if err := os.Symlink(path, filepath.Join(dir, name)); err != nil {
						t.Fatal(err)
					}
					break
				}
			}
		}
		return dir
	}
	replace := func(t *testing.T, path, script string) {
		t.Helper()
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if script != "" {
			if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, test := range map[string]struct {
		binary, script string
		want           []string
	}{
		"missing etcd":       {"etcd", "", []string{"no program etcd in ", "make devcluster"}},
		"missing API server": {"kube-apiserver", "", []string{"no program kube-apiserver in", "make devcluster"}},
		"missing manager":    {"kube-controller-manager", "", []string{"no program kube-controller-manager in", "make devcluster"}},
		"not for us":         {"etcd", "\x7fELF nothing that runs here", []string{"etcd --version", "exec format error"}},
		"not itself":         {"kube-apiserver", "#!/bin/sh\necho 'Lisp 1.5'\n", []string{"Lisp 1.5", "no version"}},
		"ends at once": {"kube-apiserver", "#!/bin/sh\n[ \"$1\" != --version ] || exec echo Kubernetes v1.36.3\necho what is wrong; exit 3\n",
			[]string{"kube-apiserver ended unexpectedly", "exit status 3", "what is wrong"}},
		"taken port, again and again": {"etcd", "#!/bin/sh\n[ \"$1\" != --version ] || exec echo etcd Version: 3.6.14\necho \"$$ bind: address already in use\"; exit 1\n",
			[]string{"etcd ended unexpectedly", "address already in use"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := complete(t)
			replace(t, filepath.Join(dir, test.binary), test.script)
			opts := options(t, t.TempDir())
			opts.BinDirs = []string{dir}
			expectError(t, opts, test.want...)
			if left := children(t); len(left) != 0 {
				t.Errorf("left after a failed start: %v", left)
			}
		})
	}

	t.Run("first folder first, a port taken once", func(t *testing.T) {
		first, second := t.TempDir(), complete(t)
		etcd, err := os.Readlink(filepath.Join(second, "etcd"))
		if err != nil {
			t.Fatal(err)
		}
		tried := filepath.Join(first, "tried")
		if err := os.WriteFile(filepath.Join(first, "etcd"), fmt.Appendf(nil,
			"#!/bin/sh\n[ \"$1\" = --version ] || [ -e %[1]s ] || { : >%[1]s; echo bind: address already in use; exit 1; }\nexec %[2]s \"$@\"\n", tried, etcd), 0o700); err != nil {
			t.Fatal(err)
		}
		opts := options(t, t.TempDir())
		opts.BinDirs = []string{first, second}
		start(t, opts)
		if _, err := os.Stat(tried); err != nil {
			t.Errorf("the etcd of the first folder was not tried: %v", err)
		}
	})
}

func TestOtherFolder(t *testing.T) {
	dir := t.TempDir()
	mine := filepath.Join(dir, "thesis.tex")
	write(t, mine, "years of work")
	expectError(t, options(t, dir), dir, "not empty", "--dir")
	if err := host.Wipe(t.Context(), dir); err == nil {
		t.Error("Wipe of a folder that is not ours succeeded")
	}
	if got := string(read(t, mine)); got != "years of work" {
		t.Errorf("the file is now %q", got)
	}
	if err := host.Wipe(t.Context(), filepath.Join(dir, "none")); err != nil {
		t.Errorf("Wipe of no folder: %v", err)
	}
	if pid, used, err := host.User(filepath.Join(dir, "none")); used || err != nil {
		t.Errorf("User of no folder: %d, %v and %v", pid, used, err)
	}
}

// writeState makes the folder one of an earlier start that opts fit, but for change.
func writeState(t *testing.T, opts host.Options, change func(map[string]any)) {
	t.Helper()
	if err := host.OpenDir(opts.Dir); err != nil {
		t.Fatal(err)
	}
	bin, err := host.FindBinaries(t.Context(), opts.BinDirs)
	if err != nil {
		t.Fatal(err)
	}
	state := map[string]any{"format": 1, "clusterAPI": opts.ClusterAPI, "kubernetes": bin.Kubernetes(), "etcd": bin.Etcd(), "port": 0}
	change(state)
	content, err := json.Marshal(state)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(opts.Dir, "state.json"), string(content))
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("waited in vain for %s: %v", what, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
