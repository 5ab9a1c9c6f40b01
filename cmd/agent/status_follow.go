package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// news is what a list or a watch has told.
type news struct {
	// list says that there is nothing but what is in there.
	list        bool
	there, gone []client.Object
	// err is why nothing is told at the moment.
	err error
}

const (
	// followPause is between the end of a watch and the next list.
	followPause = time.Second
	// followTime is after how long a watch is made anew: one whose connection is dead says
	// nothing any more.
	followTime = 5 * time.Minute
)

// follow lists and watches a kind, called kind in errors, until the context ends. It tries
// for as long as that takes.
func follow(ctx context.Context, c client.WithWatch, kind string, list client.ObjectList, namespace string) <-chan news {
	f := follower{client: c, kind: kind, list: list, namespace: namespace, news: make(chan news)}
	go func() {
		for ctx.Err() == nil {
			if err := f.once(ctx); err != nil {
				f.tell(ctx, news{err: err})
			}
			select {
			case <-ctx.Done():
			case <-time.After(followPause):
			}
		}
	}()
	return f.news
}

type follower struct {
	client    client.WithWatch
	kind      string
	list      client.ObjectList
	namespace string
	news      chan news
}

func (f *follower) tell(ctx context.Context, n news) {
	select {
	case f.news <- n:
	case <-ctx.Done():
	}
}

// once lists, and watches until that ends.
func (f *follower) once(ctx context.Context) error {
	list, ok := f.list.DeepCopyObject().(client.ObjectList)
	if !ok {
		return errors.New("not a list")
	}
	if err := f.client.List(ctx, list, client.InNamespace(f.namespace)); err != nil {
		return fmt.Errorf("list %s: %w", f.kind, err)
	}
	n := news{list: true}
	err := meta.EachListItem(list, func(o runtime.Object) error {
		if object, ok := o.(client.Object); ok {
			n.there = append(n.there, object)
		}
		return nil
	})
	if err != nil {
		return err
	}
	f.tell(ctx, n)
	seconds := int64(followTime.Seconds())
	events, err := f.client.Watch(ctx, f.list, client.InNamespace(f.namespace), &client.ListOptions{
		Raw: &metav1.ListOptions{ResourceVersion: list.GetResourceVersion(), TimeoutSeconds: &seconds},
	})
	if err != nil {
		return fmt.Errorf("watch %s: %w", f.kind, err)
	}
	defer events.Stop()
	for event := range events.ResultChan() {
		object, ok := event.Object.(client.Object)
		switch {
		case event.Type == watch.Error:
			if err := apierrors.FromObject(event.Object); !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err) {
				return fmt.Errorf("watch %s: %w", f.kind, err)
			}
			return nil // list again
		case !ok:
		case event.Type == watch.Deleted:
			f.tell(ctx, news{gone: []client.Object{object}})
		default:
			f.tell(ctx, news{there: []client.Object{object}})
		}
	}
	return nil
}

// final says whether it is no use to try again.
func final(err error) bool {
	return apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) || apierrors.IsNotFound(err) || meta.IsNoMatchError(err)
}
