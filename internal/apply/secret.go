package apply

import (
	"encoding/base64"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// inData returns a Secret with its stringData in data, and anything else as it is. An API
// server turns one into the other after it has noted whose fields they are: keys of data
// would belong to nobody, so that one which leaves Git would stay, and an edit of one
// would not be seen as an edit of what Git says (kubernetes v1.36
// pkg/apis/core/v1/conversion.go, Convert_v1_Secret_To_core_Secret). What isn't a text is
// left for the API server to refuse.
func inData(u *unstructured.Unstructured) *unstructured.Unstructured {
	texts, found := u.Object["stringData"].(map[string]any)
	if !found || u.GroupVersionKind().GroupKind() != (schema.GroupKind{Kind: "Secret"}) {
		return u
	}
	data, ok := u.Object["data"].(map[string]any)
	if !ok && u.Object["data"] != nil {
		return u
	}
	all := make(map[string]any, len(data)+len(texts))
	for key, value := range data {
		all[key] = value
	}
	for key, value := range texts {
		text, ok := value.(string)
		if !ok {
			return u
		}
		all[key] = base64.StdEncoding.EncodeToString([]byte(text))
	}
	u = u.DeepCopy()
	delete(u.Object, "stringData")
	u.Object["data"] = all
	return u
}
