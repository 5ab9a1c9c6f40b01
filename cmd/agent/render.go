package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"capstan.dev/capstan/internal/render"
	"capstan.dev/capstan/internal/source"
	"capstan.dev/capstan/internal/tree"
)

func newRenderCommand(a *app) *cobra.Command {
	var output string
	var set []string
	cmd := &cobra.Command{
		Use:   "render PATH",
		Short: "Print what an overlay of the working copy renders",
		Long: `Print what an overlay of the working copy renders, as the agent would apply it but
for its labels. No cluster is needed. Secrets are printed as they are.`,
		Example: "  capstan render clusters/dev\n  capstan render clusters/dev --set REGION=north -o json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			substitution, err := parseSet(set)
			if err != nil {
				return err
			}
			result, err := renderPath(cmd.Context(), args[0], substitution)
			if err != nil {
				return err
			}
			for _, warning := range result.Warnings {
				fmt.Fprintln(a.err, "warning: "+warning)
			}
			return a.printObjects(result.Objects, output)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "yaml", "yaml or json")
	cmd.Flags().StringArrayVar(&set, "set", nil, "NAME=VALUE: substitute ${NAME}; turns substitution on")
	return cmd
}

// renderPath renders a directory of the working copy that it lies in.
func renderPath(ctx context.Context, path string, substitution *render.Substitution) (*render.Result, error) {
	root, rel, err := source.OpenWorkingCopy(path)
	if err != nil {
		return nil, err
	}
	return render.Render(ctx, render.Input{Tree: tree.FromDir(root), Path: rel, Substitute: substitution})
}

// parseSet reads NAME=VALUE flags; nil if there are none.
func parseSet(set []string) (*render.Substitution, error) {
	if len(set) == 0 {
		return nil, nil
	}
	values := map[string]string{}
	for _, s := range set {
		name, value, ok := strings.Cut(s, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("--set %q: want NAME=VALUE", s)
		}
		values[name] = value
	}
	return &render.Substitution{Values: values}, nil
}

func (a *app) printObjects(objects []*unstructured.Unstructured, output string) error {
	switch output {
	case "yaml":
		for _, u := range objects {
			content, err := yaml.Marshal(u.Object)
			if err != nil {
				return err
			}
			if _, err := fmt.Fprintf(a.out, "---\n%s", content); err != nil {
				return err
			}
		}
		return nil
	case "json":
		return a.printJSON(map[string]any{"apiVersion": "v1", "kind": "List", "items": objects})
	default:
		return fmt.Errorf("--output %q: want yaml or json", output)
	}
}

// printJSON escapes the control characters that JSON lets stand and a terminal obeys.
func (a *app) printJSON(value any) error {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(value); err != nil {
		return err
	}
	var escaped strings.Builder
	for _, r := range text.String() {
		if r >= 0x7f && r < 0xa0 {
			fmt.Fprintf(&escaped, `\u%04x`, r)
		} else {
			escaped.WriteRune(r)
		}
	}
	_, err := io.WriteString(a.out, escaped.String())
	return err
}
