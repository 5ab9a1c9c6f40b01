// Package drift decides whether a live object still says what was applied, who
// changed it, and what to do about that. [See] looks at an object alone, at every
// event of a watch; [Compare] at an object that See found suspect, beside the answer
// to a dry-run; [Decide] weighs what was found. Everything is computed from what is
// passed in: nothing here reads or writes a cluster.
package drift
