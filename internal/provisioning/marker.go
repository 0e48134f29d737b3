package provisioning

import (
	"strings"

	"github.com/connect-prisma/server/internal/tenants"
)

// Credentials bear the marker of the operation that made them at the end of their name
// at Prisma: "app op_…". Partners see "app".

// markedName is the name at Prisma of credentials that an operation makes: as long as any
// name may be, so a long one is cut to make room for the marker.
func markedName(name string, op tenants.OperationID) string {
	marker := " " + op.String()
	if runes := []rune(name); len(runes)+len(marker) > maxName {
		name = strings.TrimRight(string(runes[:maxName-len(marker)]), " ")
	}
	return name + marker
}

// bearsMarker reports whether a name at Prisma is one that this operation gave.
func bearsMarker(name string, op tenants.OperationID) bool {
	return strings.HasSuffix(name, " "+op.String())
}

// shownName is a name at Prisma without the marker.
func shownName(name string) string {
	if at := strings.LastIndexByte(name, ' '); at > 0 {
		if _, err := tenants.ParseOperationID(name[at+1:]); err == nil {
			return name[:at]
		}
	}
	return name
}
