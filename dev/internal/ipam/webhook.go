package ipam

import (
	"context"
	"fmt"
	"net/netip"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
)

// skipValidateDelete is the annotation that lets a pool go although addresses of it are in use, for
// `clusterctl move`.
const skipValidateDelete = "ipam.cluster.x-k8s.io/skip-validate-delete-webhook"

func setupWebhooks(mgr ctrl.Manager) error {
	if err := setupWebhook(mgr, &InClusterIPPool{}); err != nil {
		return err
	}
	return setupWebhook(mgr, &GlobalInClusterIPPool{})
}

func setupWebhook[T Pool](mgr ctrl.Manager, pool T) error {
	w := webhook[T]{reader: mgr.GetClient()}
	if err := ctrl.NewWebhookManagedBy(mgr, pool).WithDefaulter(w).WithValidator(w).Complete(); err != nil {
		return fmt.Errorf("set up the webhooks of %ss: %w", pool.Reference().Kind, err)
	}
	return nil
}

// webhook judges pools. There is nothing to default.
type webhook[T Pool] struct{ reader client.Reader }

func (webhook[T]) Default(context.Context, T) error { return nil }

func (webhook[T]) ValidateCreate(_ context.Context, pool T) (admission.Warnings, error) {
	return nil, invalid(pool)
}

func (w webhook[T]) ValidateUpdate(ctx context.Context, old, pool T) (admission.Warnings, error) {
	if err := invalid(pool); err != nil {
		return nil, err
	}
	used, err := inUse(ctx, w.reader, old)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	set, err := allocatable(pool.spec())
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	if lost := usedSet(used).Minus(set); len(lost) > 0 {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("pool addresses do not contain allocated addresses: %v", lost))
	}
	return nil, nil
}

func (w webhook[T]) ValidateDelete(ctx context.Context, pool T) (admission.Warnings, error) {
	if _, skip := pool.GetAnnotations()[skipValidateDelete]; skip {
		return nil, nil
	}
	used, err := inUse(ctx, w.reader, pool)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	if len(used) > 0 {
		return nil, apierrors.NewBadRequest("Pool has IPAddresses allocated. Cannot delete Pool until all IPAddresses have been removed.")
	}
	return nil, nil
}

func invalid(pool Pool) error {
	if errs := validate(pool.spec()); len(errs) > 0 {
		return apierrors.NewInvalid(GroupVersion.WithKind(pool.Reference().Kind).GroupKind(), pool.GetName(), errs)
	}
	return nil
}

// families of a list of addresses.
type families struct{ v4, v6 bool }

func (f families) mixed() bool { return f.v4 && f.v6 }

func validate(spec *PoolSpec) field.ErrorList {
	const (
		malformed = "provided address is not a valid IP, range, nor CIDR"
		mixed     = "provided addresses are of mixed IP families"
	)
	var errs field.ErrorList
	path := field.NewPath("spec")
	read := func(path *field.Path, addresses []string) (spans []Span, f families) {
		for _, address := range addresses {
			span, err := ParseSpan(address)
			if err != nil {
				errs = append(errs, field.Invalid(path, address, malformed))
				continue
			}
			spans = append(spans, span)
			f.v4, f.v6 = f.v4 || span.From.Is4(), f.v6 || span.From.Is6()
		}
		if f.mixed() {
			errs = append(errs, field.Invalid(path, addresses, mixed))
		}
		return spans, f
	}

	if len(spec.Addresses) == 0 {
		errs = append(errs, field.Invalid(path.Child("addresses"), spec.Addresses, "addresses is required"))
	}
	if spec.Prefix < 0 {
		errs = append(errs, field.Invalid(path.Child("prefix"), spec.Prefix, "a valid prefix is required"))
	}
	spans, family := read(path.Child("addresses"), spec.Addresses)
	if spec.Gateway != "" {
		gateway, err := netip.ParseAddr(spec.Gateway)
		if err != nil {
			errs = append(errs, field.Invalid(path.Child("gateway"), spec.Gateway, err.Error()))
		} else if gateway.Is6() && family.v4 || gateway.Is4() && family.v6 {
			errs = append(errs, field.Invalid(path.Child("gateway"), spec.Gateway, "provided gateway and addresses are of mixed IP families"))
		}
	}
	_, excluded := read(path.Child("excludedAddresses"), spec.ExcludedAddresses)
	if family.v4 && excluded.v6 || family.v6 && excluded.v4 {
		errs = append(errs, field.Invalid(path.Child("excludedAddresses"), spec.ExcludedAddresses,
			"addresses and excluded addresses are of mixed IP families"))
	}
	if s := spec.AddressReuseGracePeriodSeconds; s != nil && *s < 0 {
		errs = append(errs, field.Invalid(path.Child("addressReuseGracePeriodSeconds"), *s, "addressReuseGracePeriodSeconds must not be negative"))
	}
	if len(errs) > 0 {
		return errs
	}

	// One network for all: that of the lowest address.
	first, _ := Set(spans).normal().First()
	network := netip.PrefixFrom(first, spec.Prefix)
	if !network.IsValid() {
		return field.ErrorList{field.Invalid(path.Child("prefix"), spec.Prefix, "provided prefix is not valid")}
	}
	for i, span := range spans {
		if !network.Contains(span.From) || !network.Contains(span.To) {
			errs = append(errs, field.Invalid(path.Child("addresses"), spec.Addresses[i], "provided address belongs to a different subnet than others"))
		}
	}
	return errs
}
