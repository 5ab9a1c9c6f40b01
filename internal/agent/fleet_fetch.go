package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/source"
)

// fetchStep reads the tracked ref. If that fails, the last good view stays in
// force and nothing is done to any object.
func fetchStep(ctx context.Context, run *fleetRun) error {
	if run.fleet.Spec.Suspend {
		run.stopped(v1alpha1.FetchedCondition, metav1.ConditionUnknown, v1alpha1.SuspendedReason, "the Fleet is suspended")
		return run.publishSuspended(ctx)
	}
	mirror, reason, err := run.mirror(ctx)
	if err != nil {
		return run.stop(v1alpha1.FetchedCondition, reason, err)
	}
	looked := run.clock.Now()
	snapshot, err := mirror.Sync(ctx)
	run.metrics.synced(run.name, mirror.Stats(), err)
	if err != nil {
		return run.stop(v1alpha1.FetchedCondition, fetchReason(err), err)
	}
	run.snapshot = snapshot
	run.since = run.board.sight(run.name, snapshot, run.fleet.CreationTimestamp.Time, looked, run.clock.Now())
	run.condition(v1alpha1.FetchedCondition, metav1.ConditionTrue, v1alpha1.SucceededReason, "the tracked ref is readable")
	return nil
}

// mirror returns the mirror of the Fleet's repository with present credentials.
func (run *fleetRun) mirror(ctx context.Context) (Mirror, string, error) {
	git := run.fleet.Spec.Git
	var auth source.Auth
	var version string
	if git.SecretRef != nil {
		object, err := run.values.get(ctx, corev1.SchemeGroupVersion.WithKind("Secret"), types.NamespacedName{Namespace: run.name.Namespace, Name: git.SecretRef.Name})
		if apierrors.IsNotFound(err) {
			err = fmt.Errorf("Secret %s/%s, named by spec.git.secretRef, does not exist", run.name.Namespace, git.SecretRef.Name)
		}
		if err == nil {
			version = object.version
			auth, err = source.AuthFromSecret(object.data)
		}
		if err != nil {
			return nil, v1alpha1.CredentialsReason, err
		}
	}
	m, err := run.mirrors.get(run.name, source.Options{
		URL:     git.URL,
		Ref:     source.Ref{Branch: git.Ref.Branch, Tag: git.Ref.Tag, SemVer: git.Ref.SemVer, Commit: git.Ref.Commit, Name: git.Ref.Name},
		Timeout: git.Timeout.Duration,
		Auth:    auth,
	}, version, run.open)
	if err != nil {
		return nil, fetchReason(err), err
	}
	return m, "", nil
}

// fetchReason is the condition reason of an error from Git.
func fetchReason(err error) string {
	return cmp.Or(string(source.ReasonOf(err)), v1alpha1.TransientReason)
}

// stop records why a fleet's reconciliation ends here. The next interval tries
// again; nothing is lost meanwhile.
func (run *fleetRun) stop(condition, reason string, err error) error {
	if errors.Is(err, context.Canceled) {
		return err // the agent is stopping: that says nothing about the Fleet
	}
	if news := run.stopped(condition, metav1.ConditionFalse, reason, err.Error()); news {
		run.recorder.Event(run.fleet, corev1.EventTypeWarning, reason, truncate(err.Error()))
	}
	return errStop
}

// stopped sets a condition and reports whether it is news.
func (run *fleetRun) stopped(condition string, status metav1.ConditionStatus, reason, message string) bool {
	for _, c := range run.fleet.Status.Conditions {
		if c.Type == condition && c.Status == status && c.Reason == reason {
			run.condition(condition, status, reason, message)
			return false
		}
	}
	run.condition(condition, status, reason, message)
	return true
}

func (run *fleetRun) condition(kind string, status metav1.ConditionStatus, reason, message string) {
	setCondition(&run.status.Conditions, run.fleet.Generation, kind, status, reason, message)
}

// mirrors keeps the open mirror of each Fleet.
type mirrors struct {
	base source.Options // Dir, AllowLocal, Clock, Log

	mu   sync.Mutex
	open map[types.NamespacedName]*openMirror
}

type openMirror struct {
	mirror Mirror
	// identity is what it was opened with; version that of the credentials.
	url, version string
	ref          source.Ref
	timeout      int64
}

// get returns the Fleet's mirror, and opens it anew when its repository, ref or
// credentials have changed.
func (m *mirrors) get(fleet types.NamespacedName, o source.Options, version string, open func(source.Options) (Mirror, error)) (Mirror, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	held := m.open[fleet]
	if held != nil && held.url == o.URL && held.version == version && held.ref == o.Ref && held.timeout == int64(o.Timeout) {
		return held.mirror, nil
	}
	if held != nil {
		delete(m.open, fleet)
		if err := held.mirror.Close(); err != nil {
			return nil, fmt.Errorf("close the mirror of %s: %w", fleet, err)
		}
	}
	o.AllowLocal, o.Clock, o.Log = m.base.AllowLocal, m.base.Clock, m.base.Log.WithValues("fleet", fleet)
	o.Dir = filepath.Join(m.base.Dir, fleet.Namespace, fleet.Name) // two Fleets may follow the same ref
	mirror, err := open(o)
	if err != nil {
		return nil, err
	}
	m.open[fleet] = &openMirror{mirror: mirror, url: o.URL, version: version, ref: o.Ref, timeout: int64(o.Timeout)}
	return mirror, nil
}

// held returns the open mirror of a Fleet, nil if there is none.
func (m *mirrors) held(fleet types.NamespacedName) Mirror {
	m.mu.Lock()
	defer m.mu.Unlock()
	if held := m.open[fleet]; held != nil {
		return held.mirror
	}
	return nil
}

// drop closes the mirror of a Fleet that is no more. Its folder is a cache and
// stays.
func (m *mirrors) drop(fleet types.NamespacedName) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if held := m.open[fleet]; held != nil {
		_ = held.mirror.Close() // nothing depends on it any more
		delete(m.open, fleet)
	}
}

// close closes all mirrors.
func (m *mirrors) close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var errs []error
	for fleet, held := range m.open {
		errs = append(errs, held.mirror.Close())
		delete(m.open, fleet)
	}
	return errors.Join(errs...)
}
