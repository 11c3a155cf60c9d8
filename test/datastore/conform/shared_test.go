package conform

import (
	"context"
	"testing"

	"k8s.io/apiserver/pkg/storage"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
)

// plain is an upstream test that needs nothing but a store.
type plain struct {
	name string
	run  func(context.Context, *testing.T, storage.Interface)
	// alone says that it cannot run beside others: it changes what is global,
	// or has objects that live for a second.
	alone bool
}

// run runs all, those side by side that can: they mostly wait.
func run(t *testing.T, tests []plain, one func(*testing.T, plain)) {
	t.Run("shared", func(t *testing.T) {
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				if !tt.alone {
					t.Parallel()
				}
				one(t, tt)
			})
		}
	})
}

// shared are the tests that are the same for the store and the cacher.
func shared() []plain {
	return []plain{
		{"CreateWithTTL", storagetesting.RunTestCreateWithTTL, true},
		{"CreateWithKeyExist", storagetesting.RunTestCreateWithKeyExist, false},
		{"Get", storagetesting.RunTestGet, true},
		{"UnconditionalDelete", storagetesting.RunTestUnconditionalDelete, false},
		{"ConditionalDelete", storagetesting.RunTestConditionalDelete, false},
		{"DeleteWithSuggestion", storagetesting.RunTestDeleteWithSuggestion, false},
		{"DeleteWithSuggestionAndConflict", storagetesting.RunTestDeleteWithSuggestionAndConflict, false},
		{"DeleteWithSuggestionOfDeletedObject", storagetesting.RunTestDeleteWithSuggestionOfDeletedObject, false},
		{"DeleteWithConflict", storagetesting.RunTestDeleteWithConflict, false},
		{"ValidateDeletionWithSuggestion", storagetesting.RunTestValidateDeletionWithSuggestion, false},
		{"ValidateDeletionWithOnlySuggestionValid", storagetesting.RunTestValidateDeletionWithOnlySuggestionValid, false},
		{"PreconditionalDeleteWithSuggestion", storagetesting.RunTestPreconditionalDeleteWithSuggestion, false},
		{"PreconditionalDeleteWithOnlySuggestionPass", storagetesting.RunTestPreconditionalDeleteWithOnlySuggestionPass, false},
		{"ListPaging", storagetesting.RunTestListPaging, false},
		{"GetListRecursivePrefix", storagetesting.RunTestGetListRecursivePrefix, false},
		{"KeySchema", storagetesting.RunTestKeySchema, false},
		{"GuaranteedUpdateWithTTL", storagetesting.RunTestGuaranteedUpdateWithTTL, true},
		{"GuaranteedUpdateWithConflict", storagetesting.RunTestGuaranteedUpdateWithConflict, false},
		{"GuaranteedUpdateWithSuggestionAndConflict", storagetesting.RunTestGuaranteedUpdateWithSuggestionAndConflict, false},
		{"Watch", storagetesting.RunTestWatch, false},
		{"WatchFromNonZero", storagetesting.RunTestWatchFromNonZero, false},
		{"DeleteTriggerWatch", storagetesting.RunTestDeleteTriggerWatch, false},
		{"DelayedWatchDelivery", storagetesting.RunTestDelayedWatchDelivery, false},
		{"WatcherTimeout", storagetesting.RunTestWatcherTimeout, false},
		{"WatchDeleteEventObjectHaveLatestRV", storagetesting.RunTestWatchDeleteEventObjectHaveLatestRV, false},
		{"WatchInitializationSignal", storagetesting.RunTestWatchInitializationSignal, false},
		{"SendInitialEventsBackwardCompatibility", storagetesting.RunSendInitialEventsBackwardCompatibility, true},
		{"WatchSemantics", storagetesting.RunWatchSemantics, true},
		{"WatchSemanticInitialEventsExtended", storagetesting.RunWatchSemanticInitialEventsExtended, true},
		{"WatchListMatchSingle", storagetesting.RunWatchListMatchSingle, true},
		// The cacher needs indexes for these three, which do the store no harm.
		{"NamespaceScopedList", storagetesting.RunTestNamespaceScopedList, false},
		{"NamespaceScopedWatch", storagetesting.RunTestNamespaceScopedWatch, false},
		{"ClusterScopedWatch", storagetesting.RunTestClusterScopedWatch, false},
	}
}
