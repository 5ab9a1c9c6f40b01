package giteatest_test

import (
	"bufio"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/onsi/gomega"

	"capstan.dev/capstan/internal/giteatest"
	"capstan.dev/capstan/internal/gittest"
)

// childVariable makes the test binary one that [TestKilled] kills.
const childVariable = "GITEATEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		os.Exit(child())
	}
	os.Exit(m.Run())
}

// repository makes a user with an empty repository and returns the address to push to.
func repository(t *testing.T, gitea *giteatest.Server, private bool) (user giteatest.User, address string) {
	t.Helper()
	user = gitea.NewUser(t)
	if err := gitea.CreateRepo(t.Context(), user.Name, "fleet", private); err != nil {
		t.Fatal(err)
	}
	token, err := gitea.Token(t.Context(), user.Name, "write:repository")
	if err != nil {
		t.Fatal(err)
	}
	return user, gitea.GitURL(user.Name, token, user.Name, "fleet")
}

// A push with a token arrives, and what it sets off is delivered and signed.
func TestPush(t *testing.T) {
	gitea := giteatest.ForTest(t)
	user, address := repository(t, gitea, true)

	const secret = "the secret of the hook"
	type delivery struct{ event, signature, want string }
	deliveries := make(chan delivery, 10)
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mac := hmac.New(sha256.New, []byte(secret))
		_, _ = io.Copy(mac, r.Body)
		deliveries <- delivery{r.Header.Get("X-Gitea-Event"), r.Header.Get("X-Gitea-Signature"), hex.EncodeToString(mac.Sum(nil))}
	}))
	defer receiver.Close()
	if err := gitea.CreateHook(t.Context(), user.Name, "fleet", receiver.URL, secret, "push"); err != nil {
		t.Fatal(err)
	}

	repo := gittest.NewRepo(t)
	commit := repo.Commit(map[string]string{"a": "1"}, "first")
	repo.Git("push", "--quiet", address, "main")
	select {
	case d := <-deliveries:
		if d.event != "push" || d.signature != d.want {
			t.Errorf("delivered event %q with signature %q, want push and %q", d.event, d.signature, d.want)
		}
	case <-time.After(time.Minute):
		t.Fatal("no delivery after a push")
	}
	password := gitea.GitURL(user.Name, user.Password, user.Name, "fleet")
	if got := repo.Git("ls-remote", password, "refs/heads/main"); !strings.HasPrefix(got, commit) {
		t.Errorf("main is %q, want %s", got, commit)
	}
	other := gitea.NewUser(t)
	wrong := gitea.GitURL(other.Name, other.Password, user.Name, "fleet")
	if out, err := exec.Command("git", "ls-remote", wrong).CombinedOutput(); err == nil {
		t.Errorf("a stranger sees a private repository: %s", out)
	}
}

// What a commit page is for can be read, and what it links to is served.
func TestPages(t *testing.T) {
	gitea := giteatest.ForTest(t)
	user, address := repository(t, gitea, false)
	repo := gittest.NewRepo(t)
	commit := repo.Commit(map[string]string{"a": "1"}, "first")
	repo.Git("push", "--quiet", address, "main")
	err := gitea.API(t.Context(), http.MethodPost, "/repos/"+user.Name+"/fleet/statuses/"+commit, map[string]string{
		"context": "capstan/fleet", "state": "success", "description": "12 of 12 overlays applied", "target_url": "https://capstan.invalid/",
	}, nil)
	if err != nil {
		t.Fatal(err)
	}

	var page string
	gomega.NewWithT(t).Eventually(func() (err error) { // Gitea works on a push after it has taken it
		page, err = get(gitea.URL() + "/" + user.Name + "/fleet/commit/" + commit)
		return err
	}, time.Minute, 10*time.Millisecond).Should(gomega.Succeed())
	for _, want := range []string{"capstan/fleet", "12 of 12 overlays applied", "https://capstan.invalid/"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page of the commit lacks %q", want)
		}
	}
	assets := regexp.MustCompile(`(?:href|src)="(/assets/(?:css|js)/[^"]+)"`).FindAllStringSubmatch(page, -1)
	if len(assets) < 4 {
		t.Errorf("the page has the assets %q, want at least two styles and two scripts", assets)
	}
	for _, asset := range assets {
		content, err := get(gitea.URL() + asset[1])
		if err != nil {
			t.Error(err)
		}
		for _, imported := range regexp.MustCompile(`@import "\./([^"]+)"`).FindAllStringSubmatch(content, -1) {
			if _, err := get(gitea.URL() + "/assets/css/" + imported[1]); err != nil {
				t.Error(err)
			}
		}
	}
}

func get(address string) (string, error) {
	resp, err := http.Get(address)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %s", address, resp.Status)
	}
	return string(body), err
}

// A server that is started again has its address and its data: after a stop, after
// a crash, and after a crash at its first start, before it was known that there is
// an administrator.
func TestStartAgain(t *testing.T) {
	dir := t.TempDir()
	gitea := giteatest.NewForTest(t, giteatest.Options{Dir: dir})
	address := gitea.URL()
	_, remote := repository(t, gitea, true)
	repo := gittest.NewRepo(t)
	var commit string
	forget := func(s *giteatest.Server) error {
		if err := s.Kill(); err != nil {
			return err
		}
		file := filepath.Join(dir, "state.json")
		state, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		forgotten := strings.Replace(string(state), `"AdminMade":true`, `"AdminMade":false`, 1)
		if forgotten == string(state) {
			return fmt.Errorf("nothing to forget in %s", state)
		}
		return os.WriteFile(file, []byte(forgotten), 0o600)
	}
	for i, end := range []func(*giteatest.Server) error{(*giteatest.Server).Stop, (*giteatest.Server).Kill, forget} {
		commit = repo.Commit(map[string]string{"a": strconv.Itoa(i)}, "next")
		repo.Git("push", "--quiet", remote, "main")
		if err := end(gitea); err != nil {
			t.Fatal(err)
		}
		if resp, err := http.Get(address); err == nil {
			resp.Body.Close()
			t.Fatal("the server answers after its end")
		}
		gitea = giteatest.NewForTest(t, giteatest.Options{Dir: dir})
		if gitea.URL() != address {
			t.Fatalf("started again at %s, was at %s", gitea.URL(), address)
		}
		if got := repo.Git("ls-remote", remote, "refs/heads/main"); !strings.HasPrefix(got, commit) {
			t.Errorf("main is %q, want %s", got, commit)
		}
		gitea.NewUser(t) // the administrator can still work
	}
}

// With TLS, who trusts the server's certificate can talk to it, and nobody else.
func TestTLS(t *testing.T) {
	gitea := giteatest.NewForTest(t, giteatest.Options{TLS: true})
	_, remote := repository(t, gitea, true)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, gitea.CA(), 0o600); err != nil {
		t.Fatal(err)
	}
	repo := gittest.NewRepo(t)
	repo.Commit(map[string]string{"a": "1"}, "first")
	repo.Git("-c", "http.sslCAInfo="+ca, "push", "--quiet", remote, "main")

	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(gitea.CA()) {
		t.Fatalf("no certificate: %q", gitea.CA())
	}
	for _, test := range []struct {
		roots *x509.CertPool
		want  bool
	}{{pool, true}, {x509.NewCertPool(), false}} {
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: test.roots, MinVersion: tls.VersionTLS12}}}
		resp, err := client.Get(gitea.URL() + "/api/v1/version")
		if err == nil {
			resp.Body.Close()
		}
		if (err == nil) != test.want {
			t.Errorf("with the certificate %t: %v", test.want, err)
		}
	}
}

// Nothing is left of a server when its parent is killed.
func TestKilled(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"=1")
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	dir, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatalf("the child says nothing: %v", err)
	}
	dir = strings.TrimSpace(dir)
	content, err := os.ReadFile(filepath.Join(dir, "gitea.pid"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(content)))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, 0); err != nil {
		t.Fatalf("Gitea does not run: %v", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	gomega.NewWithT(t).Eventually(func() error {
		if err := syscall.Kill(pid, 0); err == nil {
			return fmt.Errorf("process %d is left", pid)
		}
		if _, err := os.Stat(dir); err == nil {
			return fmt.Errorf("%s is left", dir)
		}
		return nil
	}, time.Minute, 10*time.Millisecond).Should(gomega.Succeed())
}

// child starts the shared server, says where, and waits for its end.
func child() int {
	gitea := giteatest.ForTest(failNow{})
	fmt.Println(filepath.Dir(filepath.Dir(gitea.LogFile())))
	select {}
}

// failNow is a test that only fails.
type failNow struct{ testing.TB }

func (failNow) Helper()           {}
func (failNow) Fatal(args ...any) { panic(fmt.Sprint(args...)) }

// A Gitea that ends at once is an error that comes at once.
func TestStartFails(t *testing.T) {
	opts, err := giteatest.Locate()
	if err != nil {
		t.Fatal(err)
	}
	opts.Dir = t.TempDir()
	opts.Binary = filepath.Join(opts.Dir, "broken")
	if err := os.WriteFile(opts.Binary, []byte("#!/bin/sh\necho something is broken\nexit 1\n"), 0o700); err != nil { //nolint:gosec // it must be executable
		t.Fatal(err)
	}
	gitea, err := giteatest.Start(context.Background(), opts)
	if err == nil {
		t.Fatal(gitea.Stop())
	}
	if !strings.Contains(err.Error(), "something is broken") {
		t.Errorf("the error does not say what Gitea said: %v", err)
	}
}

// Who lacks the binary is told how to get it.
func TestLocate(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	if _, err := giteatest.Locate(); err == nil || !strings.Contains(err.Error(), "not inside Capstan's repository") {
		t.Errorf("outside of a repository: %v", err)
	}
	if err := os.MkdirAll(filepath.Join("tools", "gitea"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join("tools", "gitea", "go.mod"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := giteatest.Locate(); err == nil || !strings.Contains(err.Error(), "make gitea") {
		t.Errorf("without a binary: %v", err)
	}
}

// A port that was given is given to nobody else, though its server doesn't listen yet.
func TestFreePort(t *testing.T) {
	seen := map[int]bool{}
	for range 300 { // each is bound for a moment, and others test, too
		port, err := giteatest.FreePort()
		if err != nil {
			t.Fatal(err)
		}
		if seen[port] {
			t.Fatalf("port %d is given twice", port)
		}
		seen[port] = true
	}
}
