package proxmox

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"slices"

	admissionv1 "k8s.io/api/admission/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"capstan.dev/capstan/dev/internal/proxmox/conversion"
)

func setupWebhooks(mgr ctrl.Manager) error {
	server := mgr.GetWebhookServer()
	server.Register(conversion.Path, http.HandlerFunc(conversion.Webhook))
	for kind, handler := range map[string]admission.Handler{
		"proxmoxcluster":         admission.HandlerFunc(allow),
		"proxmoxclustertemplate": admission.HandlerFunc(allow),
		"proxmoxmachine":         admission.HandlerFunc(defaultMachine),
		"proxmoxmachinetemplate": admission.HandlerFunc(allow),
	} {
		server.Register("/mutate-infrastructure-cluster-x-k8s-io-v1alpha2-"+kind, &admission.Webhook{Handler: handler})
	}
	return errorsOf(
		validateWith(mgr, &ProxmoxCluster{}, validator[*ProxmoxCluster]{create: newCluster, update: changedCluster}),
		validateWith(mgr, &ProxmoxClusterTemplate{}, validator[*ProxmoxClusterTemplate]{create: newClusterTemplate, update: changedClusterTemplate}),
		validateWith(mgr, &ProxmoxMachine{}, validator[*ProxmoxMachine]{create: newMachine, update: changedMachine}),
		validateWith(mgr, &ProxmoxMachineTemplate{}, validator[*ProxmoxMachineTemplate]{create: newMachineTemplate, update: changedMachineTemplate}),
	)
}

func errorsOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func validateWith[T runtime.Object](mgr ctrl.Manager, object T, v validator[T]) error {
	if err := ctrl.NewWebhookManagedBy(mgr, object).WithValidator(v).Complete(); err != nil {
		return fmt.Errorf("set up the webhook of %T: %w", object, err)
	}
	return nil
}

// validator judges objects by functions. A refusal may come with a warning; deletion is always allowed.
type validator[T runtime.Object] struct {
	create func(T) (warning string, err error)
	update func(old, new T) (warning string, err error)
}

func (v validator[T]) ValidateCreate(_ context.Context, object T) (admission.Warnings, error) {
	return verdict(v.create(object))
}

func (v validator[T]) ValidateUpdate(_ context.Context, old, object T) (admission.Warnings, error) {
	return verdict(v.update(old, object))
}

func (v validator[T]) ValidateDelete(context.Context, T) (admission.Warnings, error) { return nil, nil }

func verdict(warning string, err error) (admission.Warnings, error) {
	if warning == "" {
		return nil, err
	}
	return admission.Warnings{warning}, err
}

func allow(context.Context, admission.Request) admission.Response { return admission.Allowed("") }

// defaultMachine works on the object as it came, so as to keep the fields that our types lack.
func defaultMachine(_ context.Context, req admission.Request) admission.Response {
	if req.Operation == admissionv1.Delete {
		return admission.Allowed("")
	}
	machine := &unstructured.Unstructured{}
	if err := json.Unmarshal(req.Object.Raw, machine); err != nil {
		return admission.Errored(http.StatusBadRequest, err)
	}
	if !defaultRoutes(machine) {
		return admission.Allowed("")
	}
	defaulted, err := json.Marshal(machine)
	if err != nil {
		return admission.Errored(http.StatusInternalServerError, err)
	}
	return admission.PatchResponseFromRaw(req.Object.Raw, defaulted)
}

// defaultRoutes makes the first network device the one with the default routes of each family for
// which none is, and tells whether it had to.
func defaultRoutes(machine *unstructured.Unstructured) bool {
	devices, _, err := unstructured.NestedSlice(machine.Object, "spec", "network", "networkDevices")
	if err != nil || len(devices) == 0 {
		return false
	}
	changed := false
	for _, key := range []string{"defaultIPv4", "defaultIPv6"} {
		isSet := slices.ContainsFunc(devices, func(d any) bool {
			device, _ := d.(map[string]any)
			return device[key] == true
		})
		if first, ok := devices[0].(map[string]any); ok && !isSet {
			first[key], changed = true, true
		}
	}
	if !changed {
		return false
	}
	return unstructured.SetNestedSlice(machine.Object, devices, "spec", "network", "networkDevices") == nil
}

// invalid is the error of one field.
func invalid(object runtime.Object, name string, err *field.Error) error {
	kind := object.GetObjectKind().GroupVersionKind().GroupKind()
	if kind == (schema.GroupKind{}) {
		kind.Group = GroupVersion.Group
	}
	return apierrors.NewInvalid(kind, name, field.ErrorList{err})
}

func newMachineTemplate(template *ProxmoxMachineTemplate) (string, error) {
	var spec struct {
		Template struct {
			Spec MachineSpec `json:"spec"`
		} `json:"template"`
	}
	if err := json.Unmarshal(template.Spec.Raw, &spec); err != nil {
		return "", apierrors.NewBadRequest(fmt.Sprintf("spec of ProxmoxMachineTemplate %s: %v", template.Name, err))
	}
	if spec.Template.Spec.ProviderID != "" {
		return "", invalid(template, template.Name,
			field.Forbidden(field.NewPath("spec", "template", "spec", "providerID"), "cannot be set in templates"))
	}
	return "", nil
}

func changedMachineTemplate(old, template *ProxmoxMachineTemplate) (string, error) {
	var before, after any
	if err := errorsOf(json.Unmarshal(old.Spec.Raw, &before), json.Unmarshal(template.Spec.Raw, &after)); err != nil {
		return "", apierrors.NewBadRequest(fmt.Sprintf("spec of ProxmoxMachineTemplate %s: %v", template.Name, err))
	}
	if !reflect.DeepEqual(before, after) {
		return "", invalid(template, template.Name, field.Forbidden(field.NewPath("spec"), "ProxmoxMachineTemplate is immutable"))
	}
	return "", nil
}
