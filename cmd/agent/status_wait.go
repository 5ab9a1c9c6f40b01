package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"capstan.dev/capstan/api/v1alpha1"
)

// Exit code of a wait for what won't happen by itself.
const exitNotConverged = 1

// settleTime is how long a wait takes a failure at another revision than the observed one
// for an old one.
const settleTime = 5 * time.Second

// awaitConvergence waits until all that is named has converged, and prints a line for
// each change on the way there.
func (a *app) awaitConvergence(ctx context.Context, c client.WithWatch, namespace string, targets []string, o statusOptions) error {
	w := convergenceWait{
		app: a, waitFor: waitFor{targets: targets, revision: o.revision, early: true}, said: map[string]string{},
		world: newFleetWorld(),
	}
	waiting, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	settled := time.NewTimer(settleTime)
	defer settled.Stop()
	fleets := follow(waiting, c, "Fleets", &v1alpha1.FleetList{}, namespace)
	overlays := follow(waiting, c, "ClusterOverlays", &v1alpha1.ClusterOverlayList{}, namespace)
	haveFleets, haveOverlays := false, false
	for {
		select {
		case <-waiting.Done():
			return w.timeout(ctx, o.timeout)
		case <-settled.C:
			w.early = false
		case n := <-fleets:
			if err := w.problem(n.err); err != nil {
				return err
			}
			haveFleets = haveFleets || n.err == nil
			w.fleets(n)
		case n := <-overlays:
			if err := w.problem(n.err); err != nil {
				return err
			}
			haveOverlays = haveOverlays || n.err == nil
			w.overlays(n)
		}
		if !haveFleets || !haveOverlays {
			continue
		}
		w.listed = true
		if done, err := w.look(); done {
			return err
		}
	}
}

// convergenceWait is a wait under way.
type convergenceWait struct {
	*app
	waitFor

	world  fleetWorld
	listed bool // world is complete
	last   verdict
	said   map[string]string // by what the lines are about
	// trouble is why the API server can't be read now, "" if it can.
	trouble string
}

// look judges what there is and says what is new. done is true if the wait has ended.
func (w *convergenceWait) look() (done bool, err error) {
	first := w.last.lines == nil
	w.last = w.judge(w.world)
	now := map[string]string{}
	for _, line := range w.last.lines {
		now[line.key] = line.text
		// What is converged from the beginning on is no change.
		if w.said[line.key] != line.text && !(first && line.outcome == outcomeDone) {
			fmt.Fprintln(w.out, printable(line.text))
		}
	}
	for key := range w.said {
		if now[key] == "" {
			fmt.Fprintln(w.out, printable(key+": deleted"))
		}
	}
	w.said = now
	switch {
	case w.last.failed > 0:
		return true, exitCode(exitNotConverged)
	case w.last.waiting == 0:
		fmt.Fprintln(w.out, "converged")
		return true, nil
	}
	return false, nil
}

// timeout is the end of a wait that nothing else has ended.
func (w *convergenceWait) timeout(ctx context.Context, after time.Duration) error {
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	if w.trouble != "" {
		return fmt.Errorf("not converged within %s, as far as is known: %s", after, w.trouble)
	}
	if !w.listed {
		return fmt.Errorf("not converged within %s: the API server has not answered", after)
	}
	var waiting []string
	for _, line := range w.last.lines {
		if line.outcome == outcomeWaiting {
			waiting = append(waiting, line.text)
		}
	}
	const most = 5
	more := ""
	if n := len(waiting); n > most {
		waiting, more = waiting[:most], fmt.Sprintf("\n  and %d more", n-most)
	}
	return fmt.Errorf("not converged within %s:\n  %s%s", after, strings.Join(waiting, "\n  "), more)
}

// problem notes why the API server can't be read. That ends the wait if trying again
// doesn't help.
func (w *convergenceWait) problem(err error) error {
	if err != nil && final(err) {
		return err
	}
	trouble := ""
	if err != nil {
		trouble = err.Error()
	}
	if trouble != "" && w.trouble == "" {
		fmt.Fprintln(w.err, "can't read the status, trying on: "+trouble)
	}
	w.trouble = trouble
	return nil
}

// fleets takes news of Fleets in.
func (w *convergenceWait) fleets(n news) {
	if n.list {
		for key := range w.world.fleets {
			w.world.gone[fleetPrefix+key.Name] = true
		}
		clear(w.world.fleets)
	}
	for _, object := range n.gone {
		delete(w.world.fleets, client.ObjectKeyFromObject(object))
		w.world.gone[fleetPrefix+object.GetName()] = true
	}
	for _, object := range n.there {
		if f, ok := object.(*v1alpha1.Fleet); ok {
			w.world.fleets[client.ObjectKeyFromObject(f)] = f
		}
	}
}

// overlays takes news of overlays in.
func (w *convergenceWait) overlays(n news) {
	forget := func(o *v1alpha1.ClusterOverlay) {
		delete(w.world.overlays, client.ObjectKeyFromObject(o))
		w.world.gone[o.Name], w.world.gone[o.Spec.Path] = true, true
	}
	if n.list {
		for _, o := range w.world.overlays {
			forget(o)
		}
	}
	for _, object := range n.gone {
		if o, ok := object.(*v1alpha1.ClusterOverlay); ok {
			forget(o)
		}
	}
	for _, object := range n.there {
		if o, ok := object.(*v1alpha1.ClusterOverlay); ok {
			w.world.overlays[client.ObjectKeyFromObject(o)] = o
		}
	}
}
