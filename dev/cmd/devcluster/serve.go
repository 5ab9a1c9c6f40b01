package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"

	"capstan.dev/capstan/dev"
	"capstan.dev/capstan/dev/internal/chaos"
	"capstan.dev/capstan/dev/internal/host"
)

// changeChaos asks a serving process to read chaos.json. It is not SIGHUP: in the foreground that means
// that the terminal is gone.
const changeChaos = syscall.SIGUSR1

func newServeCommand(dir *string) *cobra.Command {
	var s settings
	cmd := &cobra.Command{
		Use:    "serve",
		Short:  "What up starts in the background",
		Args:   cobra.NoArgs,
		Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			knobs, err := s.complete()
			if err != nil {
				return err
			}
			return serve(cmd.Context(), *dir, s, knobs, io.Discard)
		},
	}
	s.bind(cmd)
	return cmd
}

// serve runs the management cluster until ctx ends or the cluster breaks. It writes what has been reached
// to out, and for other processes into the record.
func serve(ctx context.Context, dir string, s settings, knobs chaos.Knobs, out io.Writer) error {
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, changeChaos) // before the folder is ours: others then send it
	defer signal.Stop(asked)
	signal.Ignore(syscall.SIGPIPE) // nobody needs to read on what is printed in the foreground
	log, closeLog, err := openLog(dir)
	if err != nil {
		return err
	}
	defer closeLog()

	srv := &server{out: out, record: record{
		Dir: dir, PID: os.Getpid(), Started: time.Now(), Knobs: knobs, MachineBoot: s.machineBoot, ProviderCRDs: s.providerCRDs,
	}}
	err = srv.run(ctx, s, asked, log)
	if err == nil {
		return nil
	}
	// Then it is the other's record, too, and why we failed is but a consequence.
	if pid, inUse, userErr := host.User(dir); userErr == nil && inUse && pid != os.Getpid() {
		return &host.InUseError{Dir: dir, PID: pid}
	}
	if ctx.Err() != nil {
		srv.update(func(r *record) { r.Stopping = true })
		return fmt.Errorf("stopped: %w", err)
	}
	log.Error(err, "ended")
	srv.update(func(r *record) { r.Error, r.Ready = err.Error(), false })
	return err
}

// A server is one run of the cluster and the record of it.
type server struct {
	out io.Writer

	mu     sync.Mutex
	record record
}

func (srv *server) run(ctx context.Context, s settings, asked <-chan os.Signal, log logr.Logger) (err error) {
	start, cancel := context.WithTimeoutCause(ctx, s.timeout, fmt.Errorf("not ready within --timeout %s", s.timeout))
	defer cancel()
	c, err := dev.Start(start, dev.Options{
		Dir: srv.record.Dir, BinDirs: binDirs(), Port: s.port, MachineBoot: s.machineBoot, Chaos: srv.record.Knobs,
		ProviderCRDs: s.providerCRDs, Log: log,
		Progress: func(step string) {
			fmt.Fprintln(srv.out, "  "+step)
			srv.update(func(r *record) { r.reached(step) })
		},
	})
	if err != nil {
		if start.Err() != nil && ctx.Err() == nil {
			err = fmt.Errorf("%w: %w", context.Cause(start), err)
		}
		return err
	}
	defer func() { //nolint:contextcheck // ctx is what ended; Stop has a time limit of its own
		err = errors.Join(err, c.Stop())
	}()
	api, err := url.Parse(c.RESTConfig().Host)
	if err != nil {
		return err
	}
	port, err := strconv.Atoi(api.Port())
	if err != nil {
		return err
	}
	srv.update(func(r *record) {
		r.Ready, r.API, r.Port, r.Kubeconfig, r.Versions = true, api.String(), port, c.Kubeconfig(), c.Versions()
	})
	fmt.Fprint(srv.out, welcome(srv.record))

	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }() //nolint:contextcheck // what it waits for ends by Stop, not with the command
	for {
		select {
		case <-ctx.Done():
			srv.update(func(r *record) { r.Ready, r.Stopping = false, true })
			return nil
		case err := <-ended:
			return err
		case <-asked:
			if err := srv.setChaos(c); err != nil {
				log.Error(err, "the knobs stay as they are")
			}
		}
	}
}

// setChaos does what chaos.json says.
func (srv *server) setChaos(c *dev.Cluster) error {
	var knobs chaos.Knobs
	if err := readJSON(chaosPath(srv.record.Dir), &knobs); err != nil {
		return err
	}
	c.SetChaos(knobs)
	srv.update(func(r *record) { r.Knobs = knobs })
	return nil
}

// update changes the record. That it can't be written is no reason to end: the cluster works without it.
func (srv *server) update(change func(*record)) {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	change(&srv.record)
	if err := srv.record.write(); err != nil {
		fmt.Fprintln(os.Stderr, "devcluster: "+err.Error())
	}
}

// openLog opens the log. Where its lines go in the foreground as well: a terminal could not keep up.
func openLog(dir string) (logr.Logger, func(), error) {
	if err := host.OpenDir(dir); err != nil {
		return logr.Logger{}, nil, err
	}
	if err := os.MkdirAll(filepath.Dir(logPath(dir)), 0o700); err != nil {
		return logr.Logger{}, nil, fmt.Errorf("make the folder for logs: %w", err)
	}
	file, err := os.OpenFile(logPath(dir), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return logr.Logger{}, nil, fmt.Errorf("open the log: %w", err)
	}
	return logr.FromSlogHandler(slog.NewTextHandler(file, nil)), func() { _ = file.Close() }, nil
}

// binDirs are searched for kube-apiserver and the others: where a person says, beside this program,
// where `make` builds them.
func binDirs() []string {
	var dirs []string
	if assets := os.Getenv("KUBEBUILDER_ASSETS"); assets != "" {
		dirs = append(dirs, assets)
	}
	if self, err := os.Executable(); err == nil {
		dirs = append(dirs, filepath.Dir(self))
	}
	return append(dirs, "bin")
}
