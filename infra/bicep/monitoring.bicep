// Log Analytics, and Application Insights, which accepts telemetry from identities only.

import { roles } from 'types.bicep'

@description('Name of the Log Analytics workspace.')
@minLength(4)
@maxLength(63)
param workspaceName string

@description('Name of the Application Insights component.')
param componentName string

@description('Azure region.')
param location string

@description('Tags of every resource.')
param tags object

@description('Days for which telemetry is kept.')
@minValue(30)
@maxValue(730)
param retentionInDays int

@description('Maximum gigabytes per day; the rest is dropped. 0: no limit.')
@minValue(0)
param dailyQuotaGb int

@description('Object id of the identity of the gateway.')
param principalId string

resource workspace 'Microsoft.OperationalInsights/workspaces@2025-02-01' = {
  name: workspaceName
  location: location
  tags: tags
  properties: {
    sku: {
      name: 'PerGB2018'
    }
    retentionInDays: retentionInDays
    workspaceCapping: {
      dailyQuotaGb: dailyQuotaGb == 0 ? -1 : dailyQuotaGb
    }
    features: {
      disableLocalAuth: true
    }
  }
}

resource component 'Microsoft.Insights/components@2020-02-02' = {
  name: componentName
  location: location
  tags: tags
  kind: 'web'
  properties: {
    Application_Type: 'web'
    DisableLocalAuth: true
    WorkspaceResourceId: workspace.id
  }
}

resource role 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(component.id, principalId, roles.monitoringMetricsPublisher)
  scope: component
  properties: {
    principalId: principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId(
      'Microsoft.Authorization/roleDefinitions',
      roles.monitoringMetricsPublisher
    )
  }
}

@description('Resource id of the workspace.')
output workspaceId string = workspace.id

@description('Resource id of the Application Insights component.')
output componentId string = component.id

@description('Connection string. Not a secret: it opens nothing without an identity.')
output connectionString string = component.properties.ConnectionString
