package workload

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
)

const (
	watchTimeout     = 30 * time.Minute // unless the client says another
	bookmarkInterval = time.Minute
)

// watchStream writes the events of one watch.
type watchStream struct {
	request
	writer    http.ResponseWriter
	form      form
	bookmarks bool
	version   uint64 // what the client has seen everything up to
}

// watch streams the changes of the selected objects until the client goes or its time is over.
func (a *api) watch(w http.ResponseWriter, q request, sel selection) error {
	query := q.URL.Query()
	stream := &watchStream{
		request: q, writer: w, form: accepted(q.Request), bookmarks: query.Get("allowWatchBookmarks") == "true",
	}
	timeout := watchTimeout
	if seconds, err := strconv.Atoi(query.Get("timeoutSeconds")); err == nil && seconds > 0 {
		timeout = time.Duration(seconds) * time.Second
	}

	// With initial events the version is the least that the client wants to see, and this is
	// always the newest; without, 0 and none mean to begin with what there is.
	var from uint64
	if given := query.Get("resourceVersion"); given != "" {
		var err error
		if from, err = strconv.ParseUint(given, 10, 64); err != nil {
			return apierrors.NewBadRequest("invalid resourceVersion " + strconv.Quote(given))
		}
	}
	asked := query.Get("sendInitialEvents") == "true"
	var initial []*unstructured.Unstructured
	if asked || from == 0 && query.Get("sendInitialEvents") == "" {
		initial, stream.version = a.store.list(sel)
		if from > stream.version { // seen in a cluster before this one
			return apierrors.NewResourceExpired("the resource version is of the future")
		}
	} else if stream.version = from; from == 0 {
		_, stream.version = a.store.list(sel)
	}

	w.Header().Set("Content-Type", runtime.ContentTypeJSON)
	w.WriteHeader(http.StatusOK)
	a.follow(stream, sel, initial, asked, timeout)
	return nil
}

// follow writes the initial events and then what happens. It ends early if the client is gone:
// there is nobody to tell.
func (a *api) follow(stream *watchStream, sel selection, initial []*unstructured.Unstructured, mark bool,
	timeout time.Duration,
) {
	for _, object := range initial {
		if stream.send(watch.Added, object) != nil {
			return
		}
	}
	if mark && stream.bookmark(true) != nil || stream.flush() != nil {
		return
	}
	end := time.NewTimer(timeout)
	defer end.Stop()
	bookmarks := time.NewTicker(bookmarkInterval)
	defer bookmarks.Stop()
	for {
		events, version, more, err := a.store.since(sel, stream.version)
		if err != nil {
			_ = stream.write(watch.Error, statusOf(err)) // it ends here anyway
			return
		}
		stream.version = version
		for _, event := range events {
			if stream.send(event.kind, event.object) != nil {
				return
			}
		}
		if len(events) > 0 && stream.flush() != nil {
			return
		}
		select {
		case <-more:
		case <-bookmarks.C:
			if stream.bookmarks && (stream.bookmark(false) != nil || stream.flush() != nil) {
				return
			}
		case <-end.C:
			return
		case <-stream.Context().Done():
			return
		}
	}
}

func (s *watchStream) send(kind watch.EventType, object *unstructured.Unstructured) error {
	object = as(object, s.gvk())
	switch s.form {
	case metadata:
		return s.write(kind, partial(object))
	case table:
		return s.write(kind, tableOf(s.request, []*unstructured.Unstructured{object}, object.GetResourceVersion()))
	}
	return s.write(kind, object.Object)
}

// bookmark tells the version up to which the client has seen everything; the first one after
// the initial events says so.
func (s *watchStream) bookmark(initial bool) error {
	mark := &unstructured.Unstructured{}
	mark.SetGroupVersionKind(s.gvk())
	mark.SetResourceVersion(strconv.FormatUint(s.version, 10))
	if initial {
		mark.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
	}
	if s.form == table {
		return s.write(watch.Bookmark, tableOf(s.request, nil, mark.GetResourceVersion()))
	}
	if s.form == metadata {
		return s.write(watch.Bookmark, partial(mark))
	}
	return s.write(watch.Bookmark, mark.Object)
}

func (s *watchStream) flush() error { return http.NewResponseController(s.writer).Flush() }

func (s *watchStream) write(kind watch.EventType, object any) error {
	data, err := json.Marshal(map[string]any{"type": kind, "object": object})
	if err != nil {
		return err
	}
	_, err = s.writer.Write(append(data, '\n'))
	return err
}
