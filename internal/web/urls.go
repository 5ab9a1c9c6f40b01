package web

import (
	"errors"
	"net/url"
	"strings"

	"k8s.io/apimachinery/pkg/types"
)

// CheckExternal checks the URL under which people reach the status page; it may have a
// path, which a proxy in front takes off.
func CheckExternal(external string) error {
	u, err := url.Parse(external)
	switch {
	case err != nil:
		return errors.New("the external URL can't be read; give one like https://capstan.example.com")
	case u.Scheme != "https" && u.Scheme != "http" || u.Host == "":
		return errors.New("the external URL must begin with https:// or http:// and a host")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.ForceQuery:
		return errors.New("the external URL must have no user, query or fragment")
	}
	return nil
}

// FleetURL is where the status page of a Fleet is; "" without an external URL.
func FleetURL(external string, fleet types.NamespacedName) string {
	if external == "" {
		return ""
	}
	return strings.TrimRight(external, "/") + "/fleets/" + fleet.Namespace + "/" + fleet.Name
}

// OverlayURL is where the status page of an overlay is, which is given by its name.
func OverlayURL(external string, fleet types.NamespacedName, overlay string) string {
	if external == "" {
		return ""
	}
	return FleetURL(external, fleet) + "/" + overlay
}
