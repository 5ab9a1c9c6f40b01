package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// watchStatus shows a page whenever it changes: on a terminal in place, otherwise one
// below the other.
func (a *app) watchStatus(ctx context.Context, read func(context.Context) (page, error), o statusOptions) error {
	w := statusWatch{app: a, style: a.style(o.ascii), json: o.output == "json", clear: isTerminal(a.out)}
	ticker := time.NewTicker(o.interval)
	defer ticker.Stop()
	for {
		p, err := read(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err := w.show(p, err, time.Now()); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// statusWatch remembers what it has shown.
type statusWatch struct {
	*app
	style       style
	json, clear bool
	last        []byte
	warned      []string
}

// show shows a page, or why there is none, if that is news.
func (w *statusWatch) show(p page, problem error, now time.Time) error {
	var text bytes.Buffer
	var warnings []string
	news := []byte(nil)
	switch {
	case problem != nil:
		fmt.Fprintln(&text, printable("can't read the status: "+problem.Error()))
	case w.json:
		if err := (&app{out: &text}).printJSON(p); err != nil {
			return err
		}
		warnings = p.warnings()
	default:
		if err := p.text(&text, w.style, now); err != nil {
			return err
		}
		warnings = p.warnings()
		if !w.clear { // that an age has grown is no news
			var err error
			if news, err = json.Marshal(p); err != nil {
				return fmt.Errorf("print the status: %w", err)
			}
		}
	}
	if w.clear { // they would be wiped off a terminal
		for _, warning := range warnings {
			fmt.Fprintln(&text, "\n"+printable(warning))
		}
	} else if problem == nil {
		for _, warning := range warnings {
			if !slices.Contains(w.warned, warning) {
				fmt.Fprintln(w.err, warning)
			}
		}
		w.warned = warnings
	}
	if news == nil {
		news = text.Bytes()
	}
	if bytes.Equal(news, w.last) {
		return nil
	}
	w.last = slices.Clone(news)
	if w.clear {
		fmt.Fprint(w.out, "\x1b[H\x1b[2J")
	} else {
		fmt.Fprintln(w.out)
	}
	_, err := w.out.Write(text.Bytes())
	return err
}
