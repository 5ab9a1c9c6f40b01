package install

import (
	"context"
	"fmt"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// put creates obj or, if it is there from an earlier start, replaces it: the certificate authority and
// the ports are new each time.
func put(ctx context.Context, c client.Client, obj client.Object) error {
	obj.SetResourceVersion("")
	err := c.Create(ctx, obj, owner)
	if apierrors.IsAlreadyExists(err) {
		// The API server itself writes the status of a definition.
		err = retry.RetryOnConflict(retry.DefaultBackoff, func() error {
			there := obj.DeepCopyObject().(client.Object)
			if err := c.Get(ctx, client.ObjectKeyFromObject(obj), there); err != nil {
				return err
			}
			obj.SetResourceVersion(there.GetResourceVersion())
			return c.Update(ctx, obj, owner)
		})
	}
	if err != nil {
		return fmt.Errorf("install %s: %w", obj.GetName(), err)
	}
	return nil
}

// await waits until a definition is served.
func await(ctx context.Context, c client.Client, crd *apiextensionsv1.CustomResourceDefinition) error {
	err := wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
		there := &apiextensionsv1.CustomResourceDefinition{}
		if err := c.Get(ctx, client.ObjectKeyFromObject(crd), there); err != nil {
			return false, err
		}
		for _, condition := range there.Status.Conditions {
			if condition.Type == apiextensionsv1.Established && condition.Status == apiextensionsv1.ConditionTrue {
				return true, nil
			}
			if condition.Type == apiextensionsv1.NamesAccepted && condition.Status == apiextensionsv1.ConditionFalse {
				return false, fmt.Errorf("its names are not accepted: %s", condition.Message)
			}
		}
		return false, nil
	})
	if err != nil {
		return fmt.Errorf("definition %s is not served: %w", crd.Name, err)
	}
	return nil
}
