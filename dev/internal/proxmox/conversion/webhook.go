package conversion

import (
	"encoding/json"
	"fmt"
	"net/http"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// Path is where Webhook is to be served.
const Path = "/convert-proxmox"

// Webhook answers the API server's requests for a conversion.
func Webhook(w http.ResponseWriter, req *http.Request) {
	review := apiextensionsv1.ConversionReview{}
	if err := json.NewDecoder(req.Body).Decode(&review); err != nil || review.Request == nil {
		http.Error(w, fmt.Sprintf("no ConversionReview with a request: %v", err), http.StatusBadRequest)
		return
	}
	review.Response = answer(review.Request)
	review.Request = nil
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(review)
}

func answer(req *apiextensionsv1.ConversionRequest) *apiextensionsv1.ConversionResponse {
	out := &apiextensionsv1.ConversionResponse{UID: req.UID, Result: metav1.Status{Status: metav1.StatusSuccess}}
	for _, raw := range req.Objects {
		object := &unstructured.Unstructured{}
		err := object.UnmarshalJSON(raw.Raw)
		if err == nil {
			err = convert(object, req.DesiredAPIVersion)
		}
		if err != nil {
			out.ConvertedObjects = nil
			out.Result = metav1.Status{Status: metav1.StatusFailure, Message: err.Error()}
			return out
		}
		out.ConvertedObjects = append(out.ConvertedObjects, runtime.RawExtension{Object: object})
	}
	return out
}
